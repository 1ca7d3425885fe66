"""The servers that a small lab runs without knowing it: NATS and Postgres from pip wheels, in the lab's own folder.

    DIR/lock              held by the process that runs the servers
    DIR/connection.json   addresses and credentials (0600), for whoever wants to connect
    DIR/nats/             server.json (port, users), nats.conf, jetstream/
    DIR/postgres/         server.json (port, passwords), data/
    DIR/log/              nats.log, postgres.log, written by the servers

Both listen on 127.0.0.1 only, keep their port over restarts, and write through to the disk: NATS runs with
`sync_interval: always`, Postgres with its defaults. Each has a guard (labledger/guard.py), so that none outlives us. What a
crash leaves behind, pid files of ours and of Postgres and servers of a guard that was killed, is cleared at the next start.

Everything here blocks; from a coroutine call it with `asyncio.to_thread`.

    servers.py       both, on one folder
    nats_server.py   NATS, and what it is told; cluster.py: some of them as one
    postgres.py      Postgres; account.py: as whom it runs
    guarded.py       what all have in common: a process with its guard
    files.py         files that only their owner may read, and the lock of the folder
"""
