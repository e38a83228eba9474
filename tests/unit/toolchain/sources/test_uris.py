from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packageurl import PackageURL

from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources import describe, pypi, scheme_names, scheme_of
from edgekit.toolchain.sources._context import purl, split_member
from edgekit.wire.errors import ConfigError, EdgekitError

SHA = "0" * 64


def ref(uri: str) -> SourceRef:
    return SourceRef(uri, SHA, "models/x.toml:3")


def test_the_schemes_are_the_files() -> None:
    assert scheme_names() == ["deb", "file", "hf", "http", "https", "npm", "pypi", "torch"]


@pytest.mark.parametrize("name", scheme_names())
def test_every_scheme_says_what_it_takes(name: str) -> None:
    module = scheme_of(ref(f"{name}:x"))
    assert name in module.SYNTAX
    assert scheme_of(ref(module.EXAMPLE)) is module
    assert PackageURL.from_string(module.describe(ref(module.EXAMPLE)))


@pytest.mark.parametrize(
    ("uri", "hint"),
    [("pypy:a==1", "did you mean pypi:?"), ("gopher:a", "schemes: "), ("x", "schem")],
)
def test_an_unknown_scheme_gets_a_suggestion(uri: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        describe(ref(uri))
    assert hint in str(caught.value.hint)
    assert caught.value.where == "models/x.toml:3"


@pytest.mark.parametrize(
    "uri",
    [
        "pypi:a",
        "pypi:a>=1",
        "pypi:a==",
        "pypi:a==1.*",
        "pypi:-a==1",
        "pypi:a==1;x",
        "pypi:a==1 b==2",
        "pypi:a==1?wheel",
        "pypi:a==1?wheel=py3-none",
        "pypi:a==1?other",
        "pypi:--index-url==1",
        "npm:a",
        "npm:a@latest",
        "npm:a@^1.0.0",
        "npm:a@1.0",
        "npm:-a@1.0.0",
        "npm:../a@1.0.0",
        "npm:@s/a/b@1.0.0",
        "deb:",
        "deb:-x",
        "deb:A",
        "deb:a b",
        "deb:ab=-1",
        "hf:a",
        "hf:a/b",
        "hf:a/b@",
        "torch:a",
        "torch:a:b:c",
        "torch:a.:b",
        "torch:a-b:c",
        "https:a",
        "https://",
        "file:",
    ],
)
def test_malformed_uris_are_config_errors(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        describe(ref(uri))
    assert caught.value.where == "models/x.toml:3"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (
            "pypi:Foo_Bar==1.0!a/b.onnx",
            PackageURL("pypi", None, "foo-bar", "1.0", None, "a/b.onnx"),
        ),
        ("pypi:a==1.0+cpu?sdist", PackageURL("pypi", None, "a", "1.0+cpu")),
        ("npm:@scope/a@1.2.3-rc.1!x", PackageURL("npm", "@scope", "a", "1.2.3-rc.1", None, "x")),
        ("deb:a+b=1:2-3~x", PackageURL("deb", "debian", "a+b", "1:2-3~x")),
        ("hf:own/name@abc", PackageURL("huggingface", "own", "name", "abc")),
        ("hf:pypi:a==1!m", PackageURL("pypi", None, "a", "1", None, "m")),
        ("hf:./local", PackageURL("generic", None, "local")),
        ("file:x/y.onnx", PackageURL("generic", None, "y.onnx")),
        ("torch:a.b:make", PackageURL("generic", None, "a.b", None, None, "make")),
    ],
)
def test_purls(uri: str, expected: PackageURL) -> None:
    found = PackageURL.from_string(describe(ref(uri)))
    assert found._replace(qualifiers={}) == expected
    if uri.startswith(("pypi", "npm", "deb", "file")):
        assert found.qualifiers == {"checksum": f"sha256:{SHA}"}


def test_the_purl_of_an_address_holds_it() -> None:
    found = PackageURL.from_string(describe(ref("https://h.example/a/b.zip?q=1&r=2!m")))
    assert found.name == "b.zip"
    assert found.qualifiers["download_url"] == "https://h.example/a/b.zip?q=1&r=2"
    assert found.subpath == "m"


def test_an_absolute_path_does_not_get_into_the_purl() -> None:
    assert "secret" not in describe(ref("file:/home/secret/model.onnx"))


@given(st.text(max_size=40), st.sampled_from(scheme_names()))
def test_any_text_is_a_uri_or_an_error_of_ours(text: str, scheme: str) -> None:
    try:
        found = describe(ref(f"{scheme}:{text}"))
    except EdgekitError:
        return
    assert found.startswith("pkg:")


@given(
    name=st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True),
    version=st.from_regex(r"[0-9]\.[0-9]{1,3}(rc1)?", fullmatch=True),
    tag=st.sampled_from(["", "?sdist", "?wheel=cp311-cp311-manylinux_2_28_x86_64"]),
    member=st.sampled_from(["", "!a", "!a/b.onnx"]),
)
def test_pypi_uris_round_trip(name: str, version: str, tag: str, member: str) -> None:
    parsed = pypi.parse(ref(f"pypi:{name}=={version}{tag}{member}"))
    assert (parsed.name, parsed.version, parsed.member) == (name, version, member[1:])
    assert parsed.tag == {"": "py3-none-any", "?sdist": None}.get(tag, tag[7:])


@given(st.text(max_size=30))
def test_split_member_loses_nothing(text: str) -> None:
    before, member = split_member(text)
    assert text == before if member is None else text.startswith(f"{before}!")


@given(
    name=st.text(min_size=1, max_size=12).filter(lambda s: s.strip("/") == s and s == s.strip()),
    version=st.text(alphabet="0123456789.:+~@?#%", max_size=8).filter(lambda s: s == s.strip()),
)
def test_purls_are_read_back_by_the_reference_library(name: str, version: str) -> None:
    found = PackageURL.from_string(purl("generic", name, version))
    assert (found.name, found.version or "") == (name, version)


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("py3-none-any", "--implementation py --python-version 313 --abi none --platform any"),
        (
            "cp311-cp311-manylinux_2_28_x86_64",
            "--implementation cp --python-version 311 --abi cp311 --platform manylinux_2_28_x86_64",
        ),
        ("cp39-abi3-win32", "--implementation cp --python-version 39 --abi abi3 --platform win32"),
        (
            "py2.py3-none-a.b",
            "--implementation py --python-version 313 --abi none --platform a --platform b",
        ),
    ],
)
def test_the_options_that_choose_a_wheel(tag: str, words: str) -> None:
    assert " ".join(pypi.wheel_options(tag)).endswith(words)
