"""nginx with our programs as FastCGI servers on unix sockets (nginx/examhook*.conf)."""
import re

from support import Site
from ways import Way


def slower(path):
    """So small a limit that a test reaches it."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    text, count = re.subn(r"rate=\d+r/s", "rate=1r/s", re.sub(r"burst=\d+", "burst=2", text))
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


class NginxFastcgi(Way):
    number, name, title = 1, "nginx-fastcgi", "nginx + FastCGI"
    needs = ("nginx",)

    def write_server(self):
        Site.write_nginx(self, None)
        if self.rate_limited:
            slower(self.path("nginx/examhook-http.conf"))
            slower(self.path("nginx/examhook-locations.conf"))

    def start(self):
        return Site.start(self)


WAYS = [NginxFastcgi]
