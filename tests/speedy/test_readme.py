"""The README's settings are the program's."""

from pathlib import Path

from wire.settings import Settings
from wire.settings_load import effective, load

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_lists_every_setting_with_its_default_and_meaning() -> None:
    rows = [f"| `{value.key}` | {value.value or '–'} | {value.says} |" for value in effective(Settings())]
    text = README.read_text()
    start = text.index(rows[0])
    assert text[start : text.index("\n\n", start)] == "\n".join(rows)


def test_the_readmes_file_for_several_machines_lets_each_room_be_reached_where_the_others_look(tmp_path: Path) -> None:
    file = tmp_path / "speedy.toml"
    file.write_text(README.read_text().partition("```toml\n")[2].partition("```")[0])
    settings = load(file, {})
    assert f"http://{settings.chunkmaster.listen}" in settings.cluster.masters
    assert f"http://{settings.metaserver.listen}" in settings.cluster.metaservers
    assert f"http://{settings.imageserver.listen}" in settings.cluster.imageservers
    assert f"{settings.chunkserver.server_id}=http://{settings.chunkserver.listen}" in README.read_text()
