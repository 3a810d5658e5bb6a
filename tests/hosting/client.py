"""An HTTP/1 client that sends exactly what the table says, and nghttp for HTTP/2."""
import re
import select
import socket
import ssl
import struct
import subprocess
import tempfile
import time

SECONDS = 60


class Answer:
    """`status` 0: the connection ended without an answer."""

    def __init__(self, status=0, headers=(), body=b"", interim=()):
        self.status, self.headers, self.body, self.interim = status, list(headers), body, list(interim)

    def header(self, name):
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    def __repr__(self):
        return "%d %s %r" % (self.status, dict(self.headers), self.body[:300])


class Connection:
    def __init__(self, way, plaintext=False):
        self.socket = socket.create_connection(("127.0.0.1", way.port), SECONDS * way.patience)
        if not plaintext:
            self.socket = way.tls.wrap_socket(self.socket, server_hostname="localhost")
        self.got = b""

    def close(self, abruptly=False):
        if abruptly:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data):
        """A server may answer and close before it has read everything: what it said still counts."""
        try:
            self.socket.sendall(data)
        except OSError:
            pass

    def more(self):
        try:
            data = self.socket.recv(65536)
        except (ssl.SSLError, ConnectionError):
            data = b""
        except socket.timeout:
            raise AssertionError("no answer within %d s" % SECONDS) from None
        self.got += data
        return bool(data)

    def answers_within(self, seconds):
        return bool(self.got) or bool(select.select([self.socket], [], [], seconds)[0])

    def head(self):
        while b"\r\n\r\n" not in self.got:
            if not self.more():
                return None
        text, _, self.got = self.got.partition(b"\r\n\r\n")
        first, *lines = text.decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        return int(first.split()[1]), [(name.strip(), value.strip()) for name, _, value in pairs]

    def exactly(self, count):
        while len(self.got) < count and self.more():
            pass
        data, self.got = self.got[:count], self.got[count:]
        return data

    def chunks(self):
        data = b""
        while True:
            while b"\r\n" not in self.got:
                if not self.more():
                    return data
            size, _, self.got = self.got.partition(b"\r\n")
            piece = self.exactly(int(size.split(b";")[0], 16) + 2)
            if len(piece) <= 2:
                return data
            data += piece[:-2]

    def answer(self, method="POST"):
        interim = []
        while True:
            head = self.head()
            if head is None:
                return Answer(interim=interim)
            if head[0] >= 200:
                break
            interim.append(head[0])
        status, headers = head
        fields = {name.lower(): value for name, value in headers}
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif "chunked" in fields.get("transfer-encoding", "").lower():
            body = self.chunks()
        elif "content-length" in fields:
            body = self.exactly(int(fields["content-length"]))
        else:
            while self.more():
                pass
            body, self.got = self.got, b""
        return Answer(status, headers, body, interim)


def in_chunks(data, size):
    pieces = [data[i:i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def head_of(message):
    lines = ["%s %s HTTP/%s" % (message.method, message.path, message.version), "Host: localhost"]
    if not message.keep and message.version != "1.0":
        lines.append("Connection: close")
    lines += ["%s: %s" % pair for pair in message.headers]
    if message.chunk:
        lines.append("Transfer-Encoding: chunked")
    elif message.body is not None:
        lines.append("Content-Length: %d" % (len(message.body) if message.length is None else message.length))
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def body_of(message):
    if message.body is None:
        return b""
    return in_chunks(message.body, message.chunk) if message.chunk else message.body


def send_http1(connection, message):
    """Sends a message (see Message in player.py) and reads its answer; None where the client leaves."""
    if message.wire is not None:
        connection.send(message.wire)
        return connection.answer()
    body = body_of(message) + message.behind
    if message.leave:
        connection.send(head_of(message) + (body if message.leave == "after" else body[:len(body) // 2]))
        time.sleep(0.8 if message.leave == "after" else 0.4) # the server has taken it
        connection.close(abruptly=True)
        return None
    if any(name.lower() == "expect" for name, _ in message.headers):
        connection.send(head_of(message))
        connection.answers_within(3)
        connection.send(body)
    elif message.pace:
        connection.send(head_of(message))
        for i in range(0, len(body), 40):
            connection.send(body[i:i + 40])
            time.sleep(message.pace)
    else:
        connection.send(head_of(message) + body)
    return connection.answer(message.method)


def send_http2(way, message):
    """By nghttp, which also takes an answer that comes before the whole body was sent, and shows the frames. A chunked
    body is one whose length is not declared."""
    command = ["nghttp", "-v", "-t", str(SECONDS * way.patience), "-H", ":method: " + message.method]
    for name, value in message.headers:
        command += ["-H", "%s: %s" % (name.lower(), value)]
    with tempfile.NamedTemporaryFile() as body:
        if message.body is not None:
            body.write(message.body)
            body.flush()
            command += ["-d", body.name] + (["--no-content-length"] if message.chunk else [])
        done = subprocess.run(command + [way.base + message.path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=False)
    text = done.stdout.decode("latin-1")
    headers = re.findall(r"^\[[ .\d]+\] recv \(stream_id=\d+\) (:?[^:\n]+): ?(.*)$", text, re.M)
    statuses = [int(value) for name, value in headers if name == ":status"]
    if not statuses:
        assert done.returncode == 0 and "h2" in text, done.stderr.decode() + text[-500:]
        return Answer()
    body = "".join(re.findall(r"^(.*)\[[ .\d]+\] recv DATA frame", text, re.M))
    return Answer(statuses[-1], [pair for pair in headers if pair[0] != ":status"], body.encode("latin-1"), statuses[:-1])
