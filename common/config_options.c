#include "config_parts.h"

#define S(n) ((int64_t)(n)*1000)
#define M(n) S((n)*60)
#define H(n) M((n)*60)
#define D(n) H((n)*24)
#define KIB(n) ((int64_t)(n)*1024)
#define MIB(n) KIB((n)*1024)

#define WEB_EXAMJOINT CONFIG_EXAMJOINT
#define WEB_PROVIEW CONFIG_PROVIEW
#define TALVIEW CONFIG_WORKER
#define ALL CONFIG_ALL

/* clang-format off */
const struct config_option config_options[] = {
    {"store", "url", CONFIG_TEXT, "sqlite:/var/lib/examhook", 0, 0, NULL, ALL, false,
     "Where everything is kept: sqlite: and a folder."},
    {"store", "lock_wait", CONFIG_DURATION, "2s", 0, S(60), NULL, ALL, false,
     "How long a writer waits for another one before it gives up."},
    {"store", "retention", CONFIG_DURATION, NULL, D(30), D(3650), NULL, ALL, false,
     "After how long what was received and fetched is deleted; without it, never."},

    {"log", "level", CONFIG_CHOICE, "info", 0, 0, "error|warn|info|debug", ALL, false,
     "What is logged: this level and those above it."},

    {"server", "body_limit", CONFIG_BYTES, "64K", KIB(1), KIB(128), NULL, ALL, false,
     "The largest body that a webhook may send."},
    {"server", "request_wait", CONFIG_DURATION, "10s", S(1), S(60), NULL, ALL, false,
     "How long a request may take to arrive whole from the web server."},
    {"server", "connections", CONFIG_INT, "2048", 8, 65536, NULL, ALL, false,
     "How many connections of the web server one program holds at once."},

    {"verify", "budget", CONFIG_DURATION, "20s", S(1), S(50), NULL, ALL, false,
     "Within this time a candidate is answered, if need be with \"please try again\"; ExamJoint itself gives up after 60s."},
    {"verify", "hash_threads", CONFIG_INT, "0", 0, 64, NULL, ALL, false,
     "How many passwords are checked at the same time; 0 is one for each processor core that the program may use, its affinity and the quota of its control group counted."},
    {"verify", "queue", CONFIG_INT, "5000", 1, 1000000, NULL, ALL, false,
     "How many candidates may wait for a password check before more are refused; at most three quarters of the connections. Fewer wait where not all would be checked within the budget."},
    {"verify", "languages", CONFIG_PATH, "/usr/share/examhook/languages", 0, 0, NULL, ALL, false,
     "The folder of the texts that candidates read, one file for each language."},
    {"verify", "default_language", CONFIG_TEXT, "en", 0, 0, NULL, ALL, false,
     "The language of a candidate whose own is missing or unknown."},
    {"verify", "nocase", CONFIG_LIST, "email", 0, 0, NULL, ALL, false,
     "The roster columns that are compared without regard to ASCII case; an empty list is allowed."},

    {"throttle", "failures", CONFIG_INT, "5", 1, 500, NULL, ALL, false,
     "After so many failures within the window a candidate's checks are slowed down."},
    {"throttle", "window", CONFIG_DURATION, "10m", S(1), D(1), NULL, ALL, false,
     "The time within which failures are counted."},
    {"throttle", "pause", CONFIG_DURATION, "15s", S(1), H(1), NULL, ALL, false,
     "The time between two checks of a candidate who is slowed down."},
    {"throttle", "rows", CONFIG_INT, "100000", 10, 10000000, NULL, ALL, false,
     "How many identities are remembered at most."},
    {"throttle", "spike", CONFIG_INT, "50", 1, 1000000, NULL, ALL, false,
     "So many slowed identities at once are logged as a possible attack."},

    {"roster", "timezone", CONFIG_ZONE, "UTC", 0, 0, NULL, ALL, false,
     "The time zone of the roster's times that carry no offset, as Europe/Berlin."},
    {"roster", "hash", CONFIG_CHOICE, "yescrypt", 0, 0, "yescrypt|bcrypt|sha512crypt", ALL, false,
     "How plain passwords of a roster file are hashed on import."},

    {"callbacks", "open_count_hour", CONFIG_INT, "1000", 1, 100000000, NULL, ALL, false,
     "With callback_open, how many callbacks are stored in an hour, of all such accounts together."},
    {"callbacks", "open_bytes_hour", CONFIG_BYTES, "4M", KIB(1), MIB(1024), NULL, ALL, false,
     "With callback_open, how many bytes of callbacks are stored in an hour, of all such accounts together."},
    {"callbacks", "fetches_session_hour", CONFIG_INT, "6", 1, 3600, NULL, ALL, false,
     "How many fetches of one session callbacks can cause in an hour."},

    {"worker", "transfers", CONFIG_INT, "16", 1, 256, NULL, ALL, false,
     "How many sessions are fetched at the same time."},
    {"worker", "connect_timeout", CONFIG_DURATION, "10s", S(1), M(5), NULL, ALL, false,
     "How long connecting to Talview may take."},
    {"worker", "request_timeout", CONFIG_DURATION, "30s", S(1), M(10), NULL, ALL, false,
     "How long one request to Talview may take as a whole."},
    {"worker", "reply_limit", CONFIG_BYTES, "256K", KIB(1), MIB(16), NULL, ALL, false,
     "The largest reply of Talview that is read."},
    {"worker", "poll", CONFIG_DURATION, "2s", S(1), H(1), NULL, ALL, false,
     "How often the worker looks for new callbacks."},
    {"worker", "lease", CONFIG_DURATION, "3m", S(2), D(1), NULL, ALL, false,
     "How long a session belongs to the worker that took it; longer than request_timeout."},
    {"worker", "retry_first", CONFIG_DURATION, "60s", S(1), D(1), NULL, ALL, false,
     "The wait before a session is asked for again the first time; it doubles from then on."},
    {"worker", "retry_max", CONFIG_DURATION, "6h", S(1), D(7), NULL, ALL, false,
     "The longest wait between two tries."},
    {"worker", "rating_wait", CONFIG_DURATION, "3d", S(1), D(365), NULL, ALL, false,
     "How long a rating is waited for before the session is parked."},
    {"worker", "rating_wait_human", CONFIG_DURATION, "14d", S(1), D(365), NULL, ALL, false,
     "The same for sessions that a human rates (record_and_review, live_proctor)."},
    {"worker", "failure_wait", CONFIG_DURATION, "3d", S(1), D(365), NULL, ALL, false,
     "How long fetches, or logins, may go on failing before the session is parked."},
    {"worker", "not_found_wait", CONFIG_DURATION, "24h", S(1), D(365), NULL, ALL, false,
     "How long Talview may not know a session (404) before it is parked."},
    {"worker", "watch_window", CONFIG_DURATION, "30d", 0, D(365), NULL, ALL, false,
     "How long a rating that is there is looked at again, because a proctor may change it."},
    {"worker", "watch_every", CONFIG_DURATION, "12h", S(1), D(30), NULL, ALL, false,
     "How often it is looked at again."},
    {"worker", "login_pause", CONFIG_DURATION, "15m", S(1), D(7), NULL, ALL, false,
     "The pause after Talview refused the credentials, so that the account is not locked."},
    {"worker", "proxy", CONFIG_URL, NULL, 0, 0, "http|https|socks5|socks5h", TALVIEW, false,
     "The proxy to Talview, as http://proxy.example:3128; the environment's proxy variables are not asked."},

    {"examjoint", "client_id", CONFIG_TEXT, NULL, 0, 0, NULL, ALL, false,
     "What ExamJoint sends as x-client-id; it tells the accounts apart."},
    {"examjoint", "client_secret", CONFIG_SECRET_VALUE, NULL, 0, 0, NULL, WEB_EXAMJOINT, true,
     "What ExamJoint sends as x-client-secret."},
    {"examjoint", "client_secret_previous", CONFIG_SECRET_VALUE, NULL, 0, 0, NULL, WEB_EXAMJOINT, true,
     "Still accepted, counted and warned of, while the secret is being changed."},

    {"proview", "environment", CONFIG_CHOICE, "production", 0, 0, "production|staging|development", ALL, false,
     "Which of Talview's systems the account lives on."},
    {"proview", "login_url", CONFIG_URL, NULL, 0, 0, NULL, ALL, false,
     "In place of environment, together with session_url: where the worker logs in."},
    {"proview", "session_url", CONFIG_URL, NULL, 0, 0, NULL, ALL, false,
     "In place of environment, together with login_url: what /UUID is appended to."},
    {"proview", "ca_file", CONFIG_PATH, NULL, 0, 0, NULL, TALVIEW, false,
     "A certificate authority (PEM) that is trusted for this account beside the system's."},
    {"proview", "username", CONFIG_SECRET_VALUE, NULL, 0, 0, NULL, TALVIEW, true,
     "The Talview user with the Test Admin role; only the worker reads it."},
    {"proview", "password", CONFIG_SECRET_VALUE, NULL, 0, 0, NULL, TALVIEW, true,
     "That user's password; only the worker reads it."},
    {"proview", "app_id", CONFIG_SECRET_VALUE, NULL, 0, 0, NULL, TALVIEW, true,
     "The app-id that Talview issued to you; only the worker reads it."},
    {"proview", "callback_open", CONFIG_BOOL, "no", 0, 0, NULL, ALL, false,
     "Yes: accept callbacks without any protection, within the limits of [callbacks]."},
    {"proview", "path_token", CONFIG_SECRET_VALUE, NULL, 0, 0, NULL, WEB_PROVIEW, true,
     "The last segment of the callback's URL: 16 or more of A-Z a-z 0-9 _ and -."},
    {"proview", "path_token_previous", CONFIG_SECRET_VALUE, NULL, 0, 0, NULL, WEB_PROVIEW, true,
     "Still accepted, counted and warned of, while the token is being changed."},
    {"proview", "header_name", CONFIG_TEXT, NULL, 0, 0, NULL, WEB_PROVIEW, false,
     "The header in which Talview sends header_secret."},
    {"proview", "header_secret", CONFIG_SECRET_VALUE, NULL, 0, 0, NULL, WEB_PROVIEW, true,
     "The value that this header must have."},
    {"proview", "header_secret_previous", CONFIG_SECRET_VALUE, NULL, 0, 0, NULL, WEB_PROVIEW, true,
     "Still accepted, counted and warned of, while the value is being changed."},
    {"proview", "basic_user", CONFIG_TEXT, NULL, 0, 0, NULL, WEB_PROVIEW, false,
     "The user name of HTTP basic authentication."},
    {"proview", "basic_password", CONFIG_SECRET_VALUE, NULL, 0, 0, NULL, WEB_PROVIEW, true,
     "The password of HTTP basic authentication."},
    {"proview", "basic_password_previous", CONFIG_SECRET_VALUE, NULL, 0, 0, NULL, WEB_PROVIEW, true,
     "Still accepted, counted and warned of, while the password is being changed."},

    {NULL, NULL, CONFIG_TEXT, NULL, 0, 0, NULL, 0, false, NULL}};
/* clang-format on */
