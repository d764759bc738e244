"""The README's table of settings is the program's."""

from pathlib import Path

from wire.settings import Settings
from wire.settings_load import effective

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_lists_every_setting_with_its_default_and_meaning() -> None:
    rows = [f"| `{value.key}` | {value.value or '–'} | {value.says} |" for value in effective(Settings())]
    text = README.read_text()
    start = text.index(rows[0])
    assert text[start : text.index("\n\n", start)] == "\n".join(rows)
