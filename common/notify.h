/*
 * Tells the service manager how the program is doing: the datagrams of sd_notify(3), sent to the unix socket
 * that NOTIFY_SOCKET names ("/path", or "@name" for an abstract one). Without NOTIFY_SOCKET nothing is done.
 *
 * No function here fails, and none but notify_ready() waits: a manager that does not listen is no reason not
 * to serve.
 */
#ifndef EXAMHOOK_NOTIFY_H
#define EXAMHOOK_NOTIFY_H

/* READY=1: the program is up, or has done what notify_reloading() announced. Waits for some seconds at the
 * most where the manager's queue is full. */
void notify_ready(void);
/* RELOADING=1, with the monotonic time that tells it from the READY=1 of before. */
void notify_reloading(void);
/* STOPPING=1: the program is on its way to its end. */
void notify_stopping(void);
/* STATUS=: one line for people; control bytes become spaces. No secret, as in the log. */
void notify_status(const char *text);

#endif
