// The same, but what has arrived until the loop comes round is one commit, and all are answered after it.
"use strict";
const { store, save, serve } = require("./store.js");

let waiting = [];
const commit = store.transaction((batch) => batch.forEach((one) => save(one.event)));

function flush() {
    const batch = waiting;
    waiting = [];
    try {
        commit(batch);
        batch.forEach((one) => one.resolve());
    } catch (error) {
        batch.forEach((one) => one.reject(error));
    }
}

serve((event) => new Promise((resolve, reject) => {
    if (waiting.push({ event, resolve, reject }) === 1) {
        setImmediate(flush);
    }
}));
