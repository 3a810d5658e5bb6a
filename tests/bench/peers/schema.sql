-- The table of every peer. WAL stays with the file; synchronous=FULL is SQLite's own default, and each peer keeps it.
PRAGMA journal_mode = WAL;
CREATE TABLE events(
    id INTEGER PRIMARY KEY,
    received_at INTEGER NOT NULL,
    event TEXT NOT NULL,
    respondent_id TEXT NOT NULL,
    exam_id TEXT NOT NULL,
    admitted_on INTEGER NOT NULL,
    body TEXT NOT NULL,
    UNIQUE(event, respondent_id, exam_id, admitted_on)
);
