// What both Node peers share: the store, the secrets, what a body must look like.
"use strict";
const crypto = require("node:crypto");
// The packages lie in the build folder.
const modules = process.env.BENCH_MODULES;
const Database = require(modules + "/better-sqlite3");
const fastify = require(modules + "/fastify");

const store = new Database(process.env.BENCH_DB, { timeout: 10000 });
store.pragma("synchronous = FULL");
const insert = store.prepare("INSERT INTO events(received_at, event, respondent_id, exam_id, admitted_on, body)" +
    " VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING");

// A digest of each, as timingSafeEqual takes only equal lengths.
const digest = (text) => crypto.createHash("sha256").update(text).digest();
const id = digest(process.env.BENCH_ID), secret = digest(process.env.BENCH_SECRET);

function authorized(headers) {
    const sameId = crypto.timingSafeEqual(digest(headers["x-client-id"] || ""), id);
    const sameSecret = crypto.timingSafeEqual(digest(headers["x-client-secret"] || ""), secret);
    return sameId && sameSecret;
}

const schema = {
    body: {
        type: "object",
        required: ["event", "respondent_id", "exam_id", "admittedOn"],
        properties: {
            event: { type: "string" },
            respondent_id: { type: "string" },
            exam_id: { type: "string" },
            admittedOn: { type: "integer" },
        },
    },
};

function save(event) {
    insert.run(Date.now(), event.event, event.respondent_id, event.exam_id, event.admittedOn, JSON.stringify(event));
}

// A server at the socket with the one route; `keep(event)` returns, or resolves, when the event is committed.
function serve(keep) {
    const app = fastify({ logger: false, bodyLimit: 65536 });
    app.post("/webhooks/examjoint", {
        schema,
        onRequest: async (request, reply) => {
            if (!authorized(request.headers)) {
                return reply.code(401).send({ error: "unauthorized" });
            }
        },
    }, async (request) => {
        await keep(request.body);
        return {};
    });
    app.listen({ path: process.env.BENCH_SOCKET, backlog: 511 }).catch((error) => {
        console.error(error);
        process.exit(1);
    });
}

module.exports = { store, save, serve };
