#!/usr/bin/python3
"""A rush of candidates, or a steady pace of admissions, over TLS from one address, for parts/start.py.

    rush.py '{"role": "candidates", "port": N, "rate": N, "seconds": N, "until": N, ...}'

One process, one thread: it takes little of the machine that it measures, and says how much. Each request has a
connection to itself while it is answered; then the next one may have it. Candidates come at random instants, `rate` of
them a second on the average for `seconds`. Who is told to try again in N seconds does so after these N seconds, as long
as that is not later than `until`. Prints one JSON object: `requests` are [due, answered, kind, told, number], times in
seconds from the beginning, kind "valid", "busy", or what else came.
"""
import asyncio
import json
import random
import re
import resource
import ssl
import sys
import time

PASSWORD = "horse yescrypt"


def candidate(number):
    return {"event": "verify_respondent", "exam_id": "exam", "choosenLang": "en",
            "fields": [{"position": 0, "value": "c%d" % number}, {"position": 1, "value": PASSWORD}]}


def admission(number):
    return {"event": "admitted_respondent", "respondent_id": "a%d" % number, "exam_id": "exam",
            "admittedOn": 1719221380326 + number}


class Rush:
    def __init__(self, how):
        self.how, self.requests, self.free, self.connections = how, [], [], 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.head = ("POST /webhooks/examjoint HTTP/1.1\r\nHost: localhost\r\nx-client-id: %s\r\nx-client-secret: %s\r\n"
                     "Content-Length: %%d\r\n\r\n" % tuple(how["client"]))

    async def connect(self):
        self.connections += 1
        return await asyncio.open_connection("127.0.0.1", self.how["port"], ssl=self.context)

    async def exchange(self, data):
        """(status, body); a kept connection that the server has closed meanwhile is no answer."""
        while True:
            kept = bool(self.free)
            reader, writer = self.free.pop() if kept else await self.connect()
            try:
                writer.write(data)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(re.search(rb"\r\ncontent-length: *(\d+)", head).group(1))
                body = await reader.readexactly(length)
            except (OSError, asyncio.IncompleteReadError):
                writer.close()
                if not kept:
                    raise
                continue
            if b"\r\nconnection: close" in head:
                writer.close()
            else:
                self.free.append((reader, writer))
            return int(head.split(None, 2)[1]), body

    @staticmethod
    def kind_of(status, body):
        if status != 200:
            return "status %d" % status, None
        answer = json.loads(body)
        told = re.search(r"try again in (\d+) seconds", answer.get("errorMessage", ""))
        if told:
            return "busy", int(told.group(1))
        return "valid" if "errorMessage" not in answer else answer["errorMessage"][:60], None

    async def one(self, number, due):
        """Asks until it is answered otherwise than with "later"; each time is one entry."""
        body = json.dumps((candidate if self.how["role"] == "candidates" else admission)(number)).encode()
        data = (self.head % len(body)).encode() + body
        while True:
            await asyncio.sleep(max(0.0, self.begun + due - time.monotonic()))
            asked = time.monotonic() - self.begun
            try:
                kind, told = self.kind_of(*await self.exchange(data))
            except (OSError, ValueError, AttributeError, asyncio.IncompleteReadError) as trouble:
                kind, told = "no answer: %r" % trouble, None
            done = time.monotonic() - self.begun
            self.requests.append([round(asked, 4), round(done, 4), kind, told, number])
            if told is None or done + told > self.how["until"]:
                return
            due = done + told

    async def run(self):
        how, due, tasks = self.how, 0.0, []
        self.begun = time.monotonic() + 0.2
        for number in range(int(how["rate"] * how["seconds"])):
            due += random.expovariate(how["rate"]) if how["role"] == "candidates" else 1 / how["rate"]
            tasks.append(asyncio.create_task(self.one(number, due)))
        await asyncio.gather(*tasks)


def main():
    rush = Rush(json.loads(sys.argv[1]))
    asyncio.run(rush.run())
    used = resource.getrusage(resource.RUSAGE_SELF)
    json.dump({"requests": rush.requests, "connections": rush.connections,
               "cpu_s": round(used.ru_utime + used.ru_stime, 3)}, sys.stdout)


if __name__ == "__main__":
    main()
