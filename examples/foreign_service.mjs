// A service of somebody else, in JavaScript: orders a scan, follows it, and verifies its history.
//
//     npm install nats
//     node foreign_service.mjs lab/connection.json
//
// All that it knows is written in docs/contracts.md. foreign_service.py does the same in Python.

import { createHash, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect, createInbox, headers } from "nats";

const PLAN = {
  nodes: [
    {
      kind: "move",
      instrument: "stage",
      channel: "x",
      positions: { kind: "linear", start: 0, stop: 5, num: 21 },
      children: [{ kind: "measure", instrument: "meter", channels: ["voltage"] }],
    },
  ],
};
const OVER = ["scan.completed.v1", "scan.aborted.v1", "scan.failed.v1"];

// What the hash of an event covers, besides its subject and its body: these headers, in this order.
const HASHED = [
  "ce-id", "ce-type", "ce-source", "ce-time", "ce-subject", "ce-causationid", "ce-correlationid", "ce-actor",
  "ce-aggregateversion", "ce-previoushash",
];

const [connectionJson, scanId = randomUUID()] = process.argv.slice(2);
if (!connectionJson) {
  console.error("usage: foreign_service.mjs CONNECTION_JSON [SCAN_ID]");
  process.exit(2);
}
const { url, users } = JSON.parse(readFileSync(connectionJson, "utf8")).nats;
const { user, password, inbox_prefix: inboxPrefix } = users.publisher;
// The inbox prefix is part of signing in: answers elsewhere do not reach us.
const nc = await connect({ servers: url, user, pass: password, inboxPrefix });
const text = (data) => new TextDecoder().decode(data);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Give a command and wait for its outcome. Doing it again under the same id is safe, and answers the same. */
async function order(name, command, commandId) {
  const inbox = createInbox(inboxPrefix);
  const outcomes = nc.subscribe(inbox, { max: 1, timeout: 15000 });
  const given = headers();
  given.set("ce-specversion", "1.0");
  given.set("ce-id", commandId);
  given.set("ce-type", `${name}.v1`);
  given.set("ce-source", "example/foreign-service-js");
  given.set("ce-actor", "example");
  given.set("Nats-Msg-Id", commandId);
  given.set("Labledger-Reply-To", inbox);
  const stored = JSON.parse(
    text((await nc.request(`cmd.${name}`, JSON.stringify(command), { headers: given, timeout: 5000 })).data),
  );
  if (stored.error) throw new Error(`the server did not take the command: ${stored.error.description}`);
  if (stored.duplicate) {
    // It was stored before: its outcome is kept under its id.
    outcomes.unsubscribe();
    return outcomeOf(commandId);
  }
  for await (const msg of outcomes) return JSON.parse(text(msg.data));
  throw new Error("no outcome came");
}

/** The outcome of a command that was given earlier. */
async function outcomeOf(commandId) {
  for (let i = 0; i < 50; i++) {
    const found = await nc.request("$JS.API.DIRECT.GET.OUT", JSON.stringify({ last_by_subj: `out.${commandId}` }));
    if (!found.headers?.code) return JSON.parse(text(found.data));
    await sleep(100);
  }
  throw new Error(`no outcome of ${commandId} yet`);
}

/** The events of one aggregate after a sequence, by batched direct get: no consumer is needed. */
async function history(subject, after = 0) {
  const events = [];
  for (;;) {
    const inbox = createInbox(inboxPrefix);
    const answers = nc.subscribe(inbox, { timeout: 15000 });
    nc.publish("$JS.API.DIRECT.GET.EVT", JSON.stringify({ seq: after + 1, next_by_subj: subject, batch: 500 }), { reply: inbox });
    let got = 0, pending = 0;
    for await (const msg of answers) {
      const code = msg.headers?.code ?? 0;
      if (code === 204 || code === 404) {
        pending = Number(msg.headers.get("Nats-Num-Pending") || 0);
        break; // the end of the batch, or nothing there
      }
      if (code) throw new Error(`${code} ${msg.headers.description}`);
      after = Number(msg.headers.get("Nats-Sequence"));
      got += 1;
      events.push({ sequence: after, subject: msg.headers.get("Nats-Subject"), header: (name) => msg.headers.get(name), body: msg.data });
    }
    answers.unsubscribe();
    if (got === 0 || pending === 0) return events;
  }
}

/** The hash of an event: SHA-256 over lines of subject and attributes, an empty line, and the body. */
function digest(event) {
  const lines = [event.subject, ...HASHED.map((name) => event.header(name))];
  return createHash("sha256").update(lines.join("\n")).update("\n\n").update(event.body).digest("hex");
}

/** The chain of one aggregate, from its first event on. Throws at the first event that was altered. */
function verify(events) {
  let previous = "";
  events.forEach((event, i) => {
    if (digest(event) !== event.header("ce-hash")) throw new Error(`event ${event.sequence} is not what was written`);
    if (Number(event.header("ce-aggregateversion")) !== i + 1 || event.header("ce-previoushash") !== previous) {
      throw new Error(`event ${event.sequence} does not follow the one before it`);
    }
    previous = event.header("ce-hash");
  });
}

const made = await order("queue.create", { queue_id: "example" }, `queue-${randomUUID()}`);
console.log(`queue example: ${made.outcome} ${made.reason}`.trimEnd());

const commandId = `order-${scanId}`;
const request = { scan_id: scanId, plan: PLAN, queue_id: "example", title: "ordered from outside" };
const outcome = await order("scan.request", request, commandId);
console.log(`scan ${scanId}: ${outcome.outcome} ${outcome.reason}`.trimEnd());
if (outcome.outcome !== "accepted") process.exit(1);
const again = await order("scan.request", request, commandId);
console.log(`the same order again: the same outcome: ${JSON.stringify(again) === JSON.stringify(outcome)}`);

// A live message is only a hint: history is what counts, and is looked at again where none comes.
const subject = `evt.scan.${scanId}`;
let hint = () => {};
nc.subscribe(`live.${subject}`, { callback: () => hint() });
let over = false, last = 0;
while (!over) {
  const heard = Promise.race([new Promise((done) => (hint = done)), sleep(2000)]);
  for (const event of await history(subject, last)) {
    last = event.sequence;
    console.log(`${String(last).padStart(6)}  ${event.header("ce-type")}`);
    over ||= OVER.includes(event.header("ce-type"));
  }
  if (!over) await heard;
}

const scan = await history(subject);
const readings = await history(`evt.readings.${scanId}`);
const frames = readings.filter((e) => e.header("ce-type") === "readings.recorded.v1").map((e) => JSON.parse(text(e.body)));
console.log(`readings: ${frames.reduce((sum, frame) => sum + frame.time.length, 0)}`);
verify(scan);
verify(readings);
console.log(`chain verified: ${scan.length} events of the scan, ${readings.length} of its readings`);
await nc.close();
