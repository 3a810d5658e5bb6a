"""What a web program says on its command line, and the sockets it refuses to make."""
import subprocess

import pytest

from test_fastcgi import BUILD, CONFIG

PROGRAMS = ("examjoint", "proview")


@pytest.fixture
def run(tmp_path):
    config = tmp_path / "examhook.conf"
    config.write_text(CONFIG.format(folder=tmp_path))
    config.chmod(0o600)
    done = subprocess.run([BUILD / "examhook", "--config", config, "migrate"], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, done.stderr

    def start(name, *words):
        return subprocess.run([BUILD / f"{name}.fcgi", *(str(word).replace("CONFIG", str(config)) for word in words)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    return start


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_and_version(run, name):
    done = run(name, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert f"{name}.fcgi" in done.stdout and "--socket" in done.stdout and "SIGHUP" in done.stdout
    done = run(name, "--version")
    assert done.returncode == 0 and done.stdout.startswith(f"{name}.fcgi ") and done.stdout.count("\n") == 1


@pytest.mark.parametrize("words", [["--sockt=x"], ["--config"], ["more"]],
                         ids=["unknown", "no value", "a word too many"])
def test_a_wrong_command_line(run, words):
    done = run("examjoint", *words)
    assert done.returncode == 2
    assert done.stdout == "" and "--socket" in done.stderr


def refused(run, *words):
    done = run("examjoint", "--config", "CONFIG", *words)
    assert done.returncode not in (0, 1), done.stderr
    return done.stderr


def test_a_path_too_long_for_a_socket(run, tmp_path):
    assert "too long for the path of a socket" in refused(run, "--socket", tmp_path / ("s" * 120))


def test_a_file_in_the_place_of_the_socket_stays(run, tmp_path):
    (tmp_path / "precious").write_text("kept")
    assert "is no socket" in refused(run, "--socket", tmp_path / "precious")
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_folder_that_is_not_there(run, tmp_path):
    assert "No such file or directory" in refused(run, "--socket", tmp_path / "none" / "s.sock")


def test_a_group_that_is_not_there(run, tmp_path):
    said = refused(run, "--socket", tmp_path / "s.sock", "--socket-group", "nobody-has-this-group")
    assert "there is no group nobody-has-this-group" in said
    assert not list(tmp_path.glob("s.sock*")) # nothing is left lying


def test_candidates_texts_that_cannot_be_read(run, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "en.txt").write_text("nonsense\n")
    with open(tmp_path / "examhook.conf", "a", encoding="utf-8") as config:
        config.write(f"[verify]\nlanguages = {tmp_path / 'texts'}\n")
    assert "en.txt" in refused(run, "--socket", tmp_path / "s.sock")


def test_a_key_that_is_gone(run, tmp_path):
    key = next((tmp_path / "store").rglob("identity.key"))
    key.unlink()
    assert "the key of unknown identities cannot be read" in refused(run, "--socket", tmp_path / "s.sock")
