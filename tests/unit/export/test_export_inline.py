"""Modules written out to stand alone: what they take along, in which order, what is refused."""

import ast
import sys
from types import ModuleType, SimpleNamespace

import pytest

from latentsmith.export.inline import _source, standalone

SHIPPED = [
    "modeling_text_dit", "modeling_semantic", "pipeline", "modeling_backbone", "class_pipeline",
    "modeling_field", "modeling_field_flow", "modeling_text_latent", "modeling_text_inverter",
]  # fmt: skip


def package(folder, monkeypatch, **modules):
    """Modules ``latentsmith.export.toy_NAME`` with these texts."""
    import latentsmith.export

    for name, text in modules.items():
        (folder / f"toy_{name}.py").write_text(text)
    monkeypatch.setattr(latentsmith.export, "__path__", [str(folder)])
    _source.cache_clear()
    return "latentsmith.export.toy_"


def run(text: str) -> dict:
    module = ModuleType("stands_alone")
    sys.modules["stands_alone"] = module  # dataclasses look there
    exec(compile(text, "stands_alone.py", "exec"), module.__dict__)
    return module.__dict__


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shipped_imports_torch_diffusers_and_transformers_alone(name):
    tree = ast.parse(standalone(f"latentsmith.export.shipped.{name}"))
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {n.name.split(".")[0] for n in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            roots.add(str(node.module).split(".")[0])
    known = {"torch", "diffusers", "transformers", "numpy", "PIL"}
    assert roots - known <= set(sys.stdlib_module_names)


def test_what_is_needed_comes_before_what_needs_it(tmp_path, monkeypatch):
    start = package(
        tmp_path,
        monkeypatch,
        deep='"""."""\nimport math\nLIMIT = 3\n\n\ndef unused():\n    return nothing_at_all\n'
        "\n\ndef deep(x):\n    return math.floor(x) + LIMIT\n"
        "\n\nclass Base:\n    twice = deep(-1.5)\n",
        near='"""."""\nfrom latentsmith.export.toy_deep import Base, deep\n\n\n'
        "class Near(Base):\n    def near(self, x):\n        return helper(x)\n"
        "\n\ndef helper(x):\n    return deep(x) * 2\n",
        top='"""Told."""\nfrom latentsmith.export.toy_near import Near\n\n\n'
        "class Top(Near):\n    pass\n",
    )
    text = standalone(f"{start}top")
    assert "unused" not in text and text.count("LIMIT = 3") == 1
    assert ast.get_docstring(ast.parse(text)) == "Told."
    assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    top = run(text)["Top"]()
    assert (top.near(1.5), top.twice) == (8, 1)


def test_settings_classes_stay_names(tmp_path, monkeypatch):
    start = package(
        tmp_path,
        monkeypatch,
        part='"""."""\nfrom latentsmith.config.schema import schema\n\n\n'
        "@schema\nclass PartConfig:\n    size: int = 1\n\n\n"
        "def part(config: PartConfig):\n    return config.size\n",
        top='"""."""\nfrom latentsmith.export.toy_part import part\n\nhere = part\n',
    )
    text = standalone(f"{start}top")
    assert "class PartConfig" not in text and "pydantic" not in text
    assert run(text)["here"](SimpleNamespace(size=5)) == 5


def test_settings_classes_that_are_used_are_plain_dataclasses(tmp_path, monkeypatch):
    """With the registry they are in, each under its name there."""
    start = package(
        tmp_path,
        monkeypatch,
        base='"""."""\nfrom latentsmith.config.schema import schema\n'
        "from latentsmith.registry import Registry\n\nTOYS = Registry('toy', 'no.such.package')\n"
        "\n\n@schema\nclass ToyConfig:\n    kind: str\n",
        ball='"""."""\nfrom typing import Annotated, ClassVar\nfrom pydantic import Field\n'
        "from latentsmith.config.schema import schema\n"
        "from latentsmith.export.toy_base import TOYS, ToyConfig\n\n\n"
        "@TOYS.register('ball', help='round')\n@schema\nclass BallConfig(ToyConfig):\n"
        "    kind: str = 'ball'\n    size: Annotated[int, Field(gt=0)] = 2\n"
        '    """Told."""\n    round: ClassVar[bool] = True\n\n'
        "    def build(self):\n        return Ball(self)\n"
        "\n\nclass Ball:\n    def __init__(self, config):\n        self.size = config.size\n",
        top='"""."""\nfrom latentsmith.export.toy_base import TOYS\n'
        "from latentsmith.export.toy_ball import BallConfig\n\nKINDS = (BallConfig,)\n",
    )
    text = standalone(f"{start}top")
    assert "pydantic" not in text and "latentsmith.config" not in text
    made = run(text)
    config = made["TOYS"]["ball"].config
    assert config is made["BallConfig"] and config.round and config().build().size == 2
    assert config(size=5).build().size == 5


def test_two_that_need_each_other_stand_in_an_order_that_runs(tmp_path, monkeypatch):
    start = package(
        tmp_path,
        monkeypatch,
        a='"""."""\n\n\nclass Base:\n    def child(self):\n'
        "        from latentsmith.export.toy_b import Child\n\n        return Child()\n",
        b='"""."""\nfrom latentsmith.export.toy_a import Base\n\n\nclass Child(Base):\n    n = 3\n',
        top='"""."""\nfrom latentsmith.export.toy_a import Base\n\nhere = Base\n',
    )
    assert run(standalone(f"{start}top"))["here"]().child().n == 3


def test_two_things_of_one_name_get_two_names(tmp_path, monkeypatch):
    start = package(
        tmp_path,
        monkeypatch,
        a='"""."""\nMEAN = 1\n\n\ndef a(x=None):\n    return MEAN, getattr(x, "MEAN", 0)\n',
        b='"""."""\nMEAN = 2\n\n\ndef b():\n    return MEAN\n',
        both='"""."""\nfrom latentsmith.export.toy_a import a\n'
        "from latentsmith.export.toy_b import b\n\nhere = a, b\n",
        own='"""."""\nfrom latentsmith.export.toy_a import a\n\nMEAN = a()\n',
        renamed='"""."""\nfrom latentsmith.export.toy_a import a as other\n\nhere = other\n',
    )
    one, two = run(standalone(f"{start}both"))["here"]
    assert (one(), two()) == ((1, 0), 2)
    assert run(standalone(f"{start}own"))["MEAN"] == (1, 0)
    assert run(standalone(f"{start}renamed"))["here"]() == (1, 0)


def test_a_method_keeps_its_name_where_a_function_of_that_name_loses_it(tmp_path, monkeypatch):
    start = package(
        tmp_path,
        monkeypatch,
        tools='"""."""\n\n\ndef draw():\n    return 1\n',
        odds='"""."""\nfrom latentsmith.export.toy_tools import draw\n\n\nclass Odds:\n'
        "    def draw(self):\n        return draw() + 1\n"
        "\n\ndef odds():\n    return Odds().draw()\n",
        top='"""."""\nfrom latentsmith.export.toy_odds import odds\n\n\n'
        "def draw():\n    return odds()\n",
    )
    assert run(standalone(f"{start}top"))["draw"]() == 2
