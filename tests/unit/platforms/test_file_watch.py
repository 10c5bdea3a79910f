"""`FileWatch` on a folder that Kubernetes updates: a symbolic link to a new folder replaces the files."""

from pathlib import Path

from anthropic_proxy.engine.platforms.files import FileWatch


def test_a_mounted_configmap_that_is_replaced_is_one_change(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"..version{number}").mkdir()
        (tmp_path / f"..version{number}/anthropic-proxy.toml").write_text(f"[models]\nbig = 'openai/gpt-{number}'\n")
    (tmp_path / "..data").symlink_to("..version1")
    (tmp_path / "anthropic-proxy.toml").symlink_to("..data/anthropic-proxy.toml")
    watch = FileWatch([str(tmp_path / "anthropic-proxy.toml")])
    assert not watch.has_changed()
    (tmp_path / "..data_new").symlink_to("..version2")
    (tmp_path / "..data_new").rename(tmp_path / "..data")
    assert [watch.has_changed() for _ in range(3)] == [False, True, False]
