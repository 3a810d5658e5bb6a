"""The pages' own commands, in a fresh Debian; and the reader of pages itself."""
import os

import pytest

import pages
from machine import TOP

PAGE = """# A page

Words.

<!-- run: echo "$1" >edited-as -->
```sh
mkdir here && cd here
editor some-file
```

<!-- network -->
<!-- run: touch by-hand -->
```sh
pwd; ls
echo first; echo the second one
```

It shows:

```text
/here
by-hand
the … one
```

<!-- not run: it would take the machine down -->
```sh
exit 1
```

```ini
not = run
```
"""


def test_blocks_of_a_page():
    found = pages.blocks(PAGE)
    assert [block.line for block in found] == [6, 13, 27]
    assert [block.edits for block in found] == [True, False, False]
    assert [block.network for block in found] == ["machine", "host", "machine"]
    assert found[1].by_hand == "touch by-hand" and found[1].shows == ["/here", "by-hand", "the … one"]
    assert found[2].not_run


@pytest.mark.parametrize("text", ["<!-- run: x -->\nwords\n", "<!-- netwrk -->\n```sh\nx\n```\n", "```text\nx\n```\n",
                                  "<!-- not run: -->\n```sh\nx\n```\n", "```sh\nx\n```\n<!-- network -->\n"])
def test_a_page_that_is_not_understood(text):
    with pytest.raises(pages.Wrong):
        pages.blocks(text)


def test_a_page_is_run(make_machine, tmp_path):
    one = make_machine()
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    pages.run_page(one, page, clone=False)
    assert one.read("/root/here/edited-as") == "some-file\n"
    for wrong in (PAGE.replace("the … one", "the … two"), PAGE.replace("echo first", "false"),
                  PAGE.replace('<!-- run: echo "$1" >edited-as -->\n', "")):
        assert wrong != PAGE
        page.write_text(wrong.replace("mkdir here", "mkdir -p here"), encoding="utf-8")
        with pytest.raises(pages.Wrong):
            pages.run_page(one, page, clone=False)


def test_nginx_and_systemd(make_machine):
    """From nothing but Debian to a stored event, then a reload, an upgrade, a stop, credentials."""
    one = make_machine()
    pages.run_page(one, os.path.join(TOP, "deploy/hosting/nginx-systemd.md"))
    assert one.run("systemctl --failed --no-legend --plain").stdout == ""
    answer = one.run("curl -sS -d '{\"event\":\"result_ready\",\"respondent_id\":\"r\",\"exam_id\":\"e\"}' "
                     "-H 'x-client-id: the-id-from-examjoint' -H 'x-client-secret: the-secret-from-examjoint' "
                     "https://webhooks.example.com/webhooks/examjoint").stdout
    assert answer == "{}", "the credential that systemd handed over"
