"""Settings: where values come from, and that every mistake is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from wire.settings import Settings
from wire.settings_load import SettingsError, effective, environment_name, load
from wire.settings_values import Address, DatabaseUrl, Duration, Listen, OriginList, Share, Size, UrlList

BASE = Path("/base")


def write(directory: Path, text: str) -> Path:
    path = directory / "speedy.toml"
    path.write_text(text)
    return path


def problems_of(path: Path | None, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(path, environ or {})
    return [str(problem) for problem in caught.value.problems]


def test_without_file_and_environment_everything_is_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(None, {})
    assert settings == Settings()
    assert {value.origin.kind for value in effective(settings)} == {"default"}


def test_environment_wins_over_file_and_file_over_default(tmp_path: Path) -> None:
    path = write(tmp_path, '[registry]\nlisten = "127.0.0.1:1"\nthreads = 7\n')
    settings = load(path, {"SPEEDY_REGISTRY_LISTEN": "[::1]:2"})
    assert settings.registry.listen == Address("::1", 2)
    assert settings.registry.threads == 7
    origins = {value.key: str(value.origin) for value in effective(settings)}
    assert origins["registry.listen"] == "environment SPEEDY_REGISTRY_LISTEN"
    assert origins["registry.threads"] == f"file {path}"
    assert origins["registry.data"] == "default"


def test_options_win_over_the_environment(tmp_path: Path) -> None:
    settings = load(write(tmp_path, ""), {"SPEEDY_LOG_LEVEL": "error"}, {"log.level": "debug"})
    assert settings.log.level == "debug"
    assert str(settings.origins["log.level"]) == "option"


def test_speedy_toml_of_the_current_directory_is_the_default_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "[registry]\nthreads = 9\n")
    monkeypatch.chdir(tmp_path)
    assert load(None, {}).registry.threads == 9


def test_every_value_as_shown_can_be_given_back_by_its_variable(tmp_path: Path) -> None:
    shown = {environment_name(v.key): v.value for v in effective(Settings()) if v.value}
    again = load(write(tmp_path, ""), shown)
    for value, expected in zip(effective(again), effective(Settings()), strict=True):
        if not value.key.endswith("data"):  # a relative path becomes an absolute one
            assert value.value == expected.value, value.key
        assert value.origin.kind == ("environment" if expected.value else "default")


def test_all_mistakes_are_told_at_once_each_with_key_given_and_allowed(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'log = "x"\n[registry]\nlisten = "nowhere"\nchunk_byts = 3\nthreads = true\n[foo]\n'
        '[chunkserver]\nheartbeat_s = "2 y"\n',
    )
    problems = problems_of(path, {"SPEEDY_REGISTRY_THREAD": "4", "SPEEDY_LOG_LEVEL": "loud"})
    assert len(problems) == 8
    text = "\n".join(problems)
    for part in (
        f'registry.listen = "nowhere" (file {path}): allowed is HOST:PORT',
        "registry.chunk_byts = 3 ",
        "did you mean chunk_bytes?",
        "registry.threads = True ",
        "[foo] ",
        'chunkserver.heartbeat_s = "2 y" ',
        'SPEEDY_REGISTRY_THREAD = "4" (environment): unknown variable; did you mean SPEEDY_REGISTRY_THREADS?',
        'log.level = "loud" (environment SPEEDY_LOG_LEVEL): allowed is one of "debug"',
    ):
        assert part in text


def test_values_that_do_not_fit_together_are_told(tmp_path: Path) -> None:
    (problem,) = problems_of(write(tmp_path, '[chunkserver]\nvolume_bytes_first = "2GiB"\n'))
    assert problem.startswith("chunkserver.volume_bytes_first")
    assert "chunkserver.volume_bytes_max" in problem
    (problem,) = problems_of(write(tmp_path, "[chunkserver]\nheartbeat_s = 3\n"))
    assert problem.startswith("chunkserver.heartbeat_s")
    assert "chunkmaster.down_after_s" in problem
    (problem,) = problems_of(write(tmp_path, "[chunkmaster]\ndown_after_s = 1\n"))
    assert problem.startswith("chunkserver.heartbeat_s")


@pytest.mark.parametrize("text", ["[registry\n", "a = \xff", "[a]\n[a]\n"])
def test_a_file_that_is_not_toml_is_one_mistake(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(text.encode("latin-1"))
    (problem,) = problems_of(path)
    assert problem.startswith(f"file {path}: is not TOML")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "none.toml")
    assert "none.toml" in problem
    assert "No such file" in problem


def test_variables_that_kubernetes_sets_for_a_service_are_ignored(tmp_path: Path) -> None:
    links = {
        "SPEEDY_REGISTRY_SERVICE_HOST": "10.0.0.1",
        "SPEEDY_REGISTRY_SERVICE_PORT": "5000",
        "SPEEDY_REGISTRY_PORT": "tcp://10.0.0.1:5000",
        "SPEEDY_REGISTRY_PORT_5000_TCP_ADDR": "10.0.0.1",
        "SPEEDY_OTHER": "1",
    }
    assert load(write(tmp_path, ""), links) == Settings()


def test_a_database_password_is_neither_shown_nor_told_in_a_mistake(tmp_path: Path) -> None:
    settings = load(write(tmp_path, ""), {"SPEEDY_DATABASE_URL": "postgres://u:geheim@h/d"})
    assert settings.database.url == "postgresql://u:geheim@h/d"
    assert "geheim" not in "".join(value.value for value in effective(settings))
    assert "geheim" not in problems_of(write(tmp_path, ""), {"SPEEDY_DATABASE_URL": "mysql://u:geheim/x@h/d"})[0]
    assert "geheim" not in problems_of(write(tmp_path, ""), {"SPEEDY_DATABASE_URI": "mysql://u:geheim@h/d"})[0]


def test_relative_paths_start_at_the_files_directory(tmp_path: Path) -> None:
    settings = load(write(tmp_path, '[registry]\ndata = "d"\n[database]\nurl = "sqlite:///m.db"\n'), {})
    assert settings.registry.data == tmp_path / "d"
    assert settings.database.url == f"sqlite:///{tmp_path}/m.db"


@pytest.mark.parametrize(
    ("raw", "size"), [(7, 7), ("7", 7), ("4MiB", 4 << 20), ("1 GiB", 1 << 30), ("1.5kib", 1536), ("2MB", 2_000_000)]
)
def test_sizes(raw: object, size: int) -> None:
    assert Size().parse(raw, BASE) == size


@pytest.mark.parametrize(("raw", "seconds"), [(2, 2.0), (0.5, 0.5), ("7d", 604800.0), ("30s", 30.0), ("250ms", 0.25)])
def test_durations(raw: object, seconds: float) -> None:
    assert Duration().parse(raw, BASE) == seconds


def test_origins_are_kept_as_browsers_send_them() -> None:
    raw = "HTTPS://UI.example:443/, http://ui.example:8080, http://[::1]:80"
    assert OriginList().parse(raw, BASE) == ("https://ui.example", "http://ui.example:8080", "http://[::1]")


@pytest.mark.parametrize(("raw", "share"), [(0, 0.0), (1, 1.0), (0.7, 0.7), ("0.25", 0.25)])
def test_shares(raw: object, share: float) -> None:
    assert Share().parse(raw, BASE) == share


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (Size(), -1), (Size(), "4XB"), (Size(), 1.5), (Size(), True), (Size(), [1]), (Size(least=10), 9),
        (Duration(), 0), (Duration(), "s"), (Duration(), float("nan")), (Duration(), float("inf")), (Duration(), "1e9"),
        (Share(), -0.1), (Share(), 1.01), (Share(), "70%"), (Share(), float("nan")), (Share(), True),
        (Listen(), "x"), (Listen(), ":80"), (Listen(), "h:65536"), (Listen(), "::1:80"), (Listen(), "h h:1"),
        (Listen(), 80),
        (UrlList(), ["http://a:1", "http://a:1/"]), (UrlList(), "ftp://a"), (UrlList(), [3]),
        (UrlList(), ["http://a:99999"]),
        (OriginList(), "*"), (OriginList(), "ui.example"), (OriginList(), "https://*.example"),
        (OriginList(), ["null"]),
        (OriginList(), "https://a/ui"), (OriginList(), "https://me@a"), (OriginList(), ["http://a", "http://a:80"]),
        (OriginList(), "http://a:99999"), (OriginList(), "http://a b"), (OriginList(), 5), (OriginList(), [5]),
        (DatabaseUrl(), "sqlite://"), (DatabaseUrl(), "sqlite:///:memory:"), (DatabaseUrl(), "x"),
    ],
)  # fmt: skip
def test_refused_values(
    kind: Size | Duration | Share | Listen | UrlList | OriginList | DatabaseUrl, raw: object
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - kinds raise it bare; the loader makes the sentence
        kind.parse(raw, BASE)
