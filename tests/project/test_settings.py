"""One table gives flags, variables and the page; what is out of range is refused by name."""

import argparse
from dataclasses import fields
from pathlib import Path

import pytest

from app.settings import (
    SettingError,
    Settings,
    add_flags,
    flag,
    listening_address,
    load,
    option,
    unknown_variables,
    variable,
)
from app.settings_page import page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_table_says() -> None:
    written = (ROOT / "docs/settings.md").read_text()
    assert written == page(), "run: python -m app.settings_page > docs/settings.md"


def test_every_setting_has_a_flag_and_a_line_on_the_page() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    flags = {text for action in parser._actions for text in action.option_strings}
    for f in fields(Settings):
        if option(f).secret:
            assert flag(f.name) not in flags
            assert f"| none | `{variable(f.name)}`" in page()
            continue
        assert flag(f.name) in flags
        assert f"`{flag(f.name)}` | `{variable(f.name)}`" in page()


def test_flag_before_variable_before_default() -> None:
    assert load({}, {}).port == 8080
    assert load({}, {"SEEDVEC_PORT": "1"}).port == 1
    assert load({"port": "2"}, {"SEEDVEC_PORT": "1"}).port == 2


def test_children_read_back_what_their_parent_has() -> None:
    settings = load({"insecure": "1", "seal_quiet_s": "0.25", "data": "a b", "pending_bytes": "1MiB"}, {})
    assert settings.pending_bytes == 1 << 20
    assert load({}, settings.environment()) == settings


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "eighty"),
        ("workers", "0"),
        ("workers", "1.5"),
        ("seal_quiet_s", "nan"),
        ("drain_s", "-1"),
        ("pending_bytes", "1MB"),
        ("log_level", "loud"),
        ("insecure", "maybe"),
        ("data", ""),
        ("keys_file", ""),
        ("k_max", "9"),
        ("json_body_bytes", "5GiB"),
    ],
)
def test_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(SettingError, match=flag(name)):
        load({name: text}, {})
    with pytest.raises(SettingError, match=variable(name)):
        load({}, {variable(name): text})


def test_misspelt_variables_are_found() -> None:
    environ = {"SEEDVEC_WORKRES": "2", "SEEDVEC_WORKERS": "2", "SEEDVEC_URL": "x", "HOME": "/"}
    assert unknown_variables(environ) == ["SEEDVEC_WORKRES"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    listening_address(load({"host": host}, {}), has_key=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"])
def test_an_open_address_is_refused_without_a_key(host: str) -> None:
    with pytest.raises(SettingError) as refused:
        listening_address(load({"host": host}, {}), has_key=False)
    expected = (
        f"refusing to bind {host} without a key: set SEEDVEC_API_KEY, or --insecure behind an authenticating proxy"
    )
    assert str(refused.value) == expected
    listening_address(load({"host": host, "insecure": "1"}, {}), has_key=False)
    listening_address(load({"host": host}, {}), has_key=True)


def test_a_secret_has_no_flag_and_is_never_shown() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)  # as the command's own: or it were --api-key-file
    add_flags(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--api-key", "sesame"])
    settings = load({}, {"SEEDVEC_API_KEY": "sesame"})
    assert settings.api_key == "sesame"
    assert "sesame" not in repr(settings)
    assert load({}, settings.environment()) == settings


def test_a_private_key_wants_its_certificate() -> None:
    with pytest.raises(SettingError, match="--tls-key is given without --tls-cert"):
        load({"tls_key": "key.pem"}, {})
