from drtune.runs import closures
from drtune.runs.closures import closure, place_of, stage_code


def test_a_method_is_found_though_it_is_imported_by_name():
    assert "drtune/methods/${train.method}" in stage_code("train")
    assert "drtune/methods/sp" in stage_code("train", "sp")
    assert not any("methods" in path for path in stage_code("evaluate"))


def test_files_of_the_stages_and_folders_of_the_library():
    assert place_of("pipeline.train") == "pipeline/train.py"
    assert place_of("drtune.data.packed") == "drtune/data"
    assert place_of("drtune.methods.dr_tune.ring") == "drtune/methods/dr_tune"


def test_the_closure_follows_imports_wherever_they_stand(tmp_path, monkeypatch):
    files = {
        "drtune/__init__.py": '"""Doc."""\n',
        "drtune/a.py": "def f():\n    from drtune.b import x\n",
        "drtune/b.py": "from drtune import c\n",
        "drtune/c.py": "import drtune.a\n",
        "drtune/d.py": "x = 1\n",
    }
    (tmp_path / "drtune").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(closures, "ROOT", tmp_path)
    for cached in (closures.modules, closures.tree, closures.imported):
        cached.cache_clear()
    try:
        assert closure("drtune.a") == {"drtune.a", "drtune.b", "drtune.c"}
    finally:
        monkeypatch.undo()
        for cached in (closures.modules, closures.tree, closures.imported):
            cached.cache_clear()
