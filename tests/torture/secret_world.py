"""A worker's world (tests/e2e/worker_support.py) whose every secret is a canary, so that what it left can be searched."""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, os.pardir, "e2e"))
from canaries import Kept, Remains  # noqa: E402
from worker_support import World  # noqa: E402


class SecretWorld(World):
    def __init__(self, settings=None, accounts=None, **how):
        self.secrets, self.remains = Kept(), None
        of = self.secrets.section("proview")
        self.username, self.password, self.app_id, self.path_token = (
            of[name] for name in ("username", "password", "app_id", "path_token"))
        self.callback_headers = self.secrets.cgi()
        try:
            super().__init__(settings, accounts, **how)
        except BaseException:
            if self.remains:
                self.remains.end()
            raise

    def account(self, **changes):
        return super().account(**{"header_name": "X-Proview-Secret", "basic_user": "talview", **self.secrets.section("proview"),
                                  **changes})

    def write_conf(self, accounts=None, **settings):
        """All is known here of the other side, and nothing of ours runs yet."""
        if not self.remains:
            os.mkdir(self.path("tmp")) # for temporary files, which whoever runs something lets be made there
            others = [self.standin.pid] if self.standin else []
            self.remains = Remains(self.secrets, self.folder, "store", others=others)
        super().write_conf(accounts, **settings)

    def run(self, *arguments, env=None):
        done = super().run(*arguments, env=env)
        self.remains.look_at(arguments, done.stdout + done.stderr)
        self.remains.note_tokens()
        return done

    def leaks(self):
        """What is wrong: a secret where it must not be; None when there is none."""
        found = self.remains.leaks()
        return "a secret is where it must not be: %s" % found if found else None

    def close(self):
        self.remains.end()
        super().close()
