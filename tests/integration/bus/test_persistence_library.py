"""What the library `eventsourcing` asks of a persistence module: the test cases that it ships, run over ours."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from eventsourcing.application import Application
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    ProcessRecorder,
    TrackingRecorder,
)
from eventsourcing.tests import application as application_cases
from eventsourcing.tests import persistence as cases
from eventsourcing.utils import Environment, get_topic

from bus.persistence import (
    JetStreamAggregateRecorder,
    JetStreamApplicationRecorder,
    JetStreamFactory,
    JetStreamProcessRecorder,
    JetStreamTrackingRecorder,
)
from labledger.embedded.nats_server import NatsServer

FACTORY = "bus.persistence.factory:JetStreamFactory"


def settings(server: NatsServer, user: str = "provisioner", **more: str) -> dict[str, str]:
    it = server.users[user]
    return {
        "PERSISTENCE_MODULE": "bus.persistence",
        "NATS_URL": server.url,
        "NATS_USER": it.name,
        "NATS_PASSWORD": it.password,
        "NATS_INBOX_PREFIX": it.inbox_prefix,
        "MAKE_STREAMS": "y",
    } | more


class OnStreams:
    """A server with fresh streams for each test of a case."""

    @pytest.fixture(autouse=True)
    def _server(self, make_nats: Callable[..., NatsServer], monkeypatch: pytest.MonkeyPatch) -> Any:
        for name in [name for name in os.environ if name.startswith(("NATS_", "LABLEDGER_", "EVENT_"))]:
            monkeypatch.delenv(name)
        # kill -9 is not the matter here: no sync for each write.
        self.settings = settings(make_nats(sync_interval="2m"))
        self.factory: Any = JetStreamFactory(Environment("Tests", self.settings))
        for name, value in self.settings.items():
            monkeypatch.setenv(name, value)  # for applications that are made without settings
        yield
        self.factory.close()


class TestAggregateRecorder(OnStreams, cases.AggregateRecorderTestCase):
    def create_recorder(self) -> AggregateRecorder:
        return self.factory.aggregate_recorder()


class TestApplicationRecorder(OnStreams, cases.ApplicationRecorderTestCase[ApplicationRecorder]):
    EXPECT_CONTIGUOUS_NOTIFICATION_IDS = True

    def create_recorder(self) -> ApplicationRecorder:
        return self.factory.application_recorder()

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestSubscriptionsByPolling(OnStreams, cases.ApplicationRecorderTestCase[ApplicationRecorder]):
    """For users who may not create consumers."""

    def create_recorder(self) -> ApplicationRecorder:
        self.factory.close()
        self.factory = JetStreamFactory(Environment("Tests", self.settings | {"NATS_POLL_S": "0.01"}))
        return self.factory.application_recorder()

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()

    # They do not subscribe, and ran above.
    test_insert_select: Any = None
    test_performance: Any = None
    test_concurrent_no_conflicts: Any = None
    test_concurrent_throughput: Any = None


class TestNotificationsDoNotInterleave(OnStreams, cases.NonInterleavingNotificationIDsBaseCase):
    insert_num = 1000

    def create_recorder(self) -> ApplicationRecorder:
        return self.factory.application_recorder()


class TestTrackingRecorder(OnStreams, cases.TrackingRecorderTestCase):
    def create_recorder(self) -> TrackingRecorder:
        return self.factory.tracking_recorder()


class TestProcessRecorder(OnStreams, cases.ProcessRecorderTestCase):
    def create_recorder(self) -> ProcessRecorder:
        return self.factory.process_recorder()


class PositionsOfTests(JetStreamTrackingRecorder):
    """A recorder that somebody built upon ours."""


class TestInfrastructureFactory(cases.InfrastructureFactoryTestCase[JetStreamFactory]):
    @pytest.fixture(autouse=True)
    def _settings(self) -> None:
        # Nothing connects before the first call of a recorder.
        self.env = Environment("Tests", {"PERSISTENCE_MODULE": "bus.persistence", "NATS_URL": "nats://127.0.0.1:9"})

    def expected_factory_class(self) -> type[JetStreamFactory]:
        return JetStreamFactory

    def expected_aggregate_recorder_class(self) -> type[AggregateRecorder]:
        return JetStreamAggregateRecorder

    def expected_application_recorder_class(self) -> type[ApplicationRecorder]:
        return JetStreamApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[TrackingRecorder]:
        return JetStreamTrackingRecorder

    def tracking_recorder_subclass(self) -> type[TrackingRecorder]:
        return PositionsOfTests

    def expected_process_recorder_class(self) -> type[ProcessRecorder]:
        return JetStreamProcessRecorder


class TestExampleApplication(OnStreams, application_cases.ExampleApplicationTestCase):
    expected_factory_topic = FACTORY


class TestApplications(OnStreams, application_cases.ApplicationTestCase):
    def test_the_settings_of_this_case_lead_to_our_streams(self) -> None:
        with Application[Any]() as app:
            assert get_topic(type(app.factory)) == FACTORY
