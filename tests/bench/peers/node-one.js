// The intake in Node, fastify and better-sqlite3: each event is a commit of its own.
"use strict";
const { save, serve } = require("./store.js");

serve(save);
