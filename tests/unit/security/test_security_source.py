"""What the source may not do, read from the source: the rules of docs/concepts/security.md."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "src" / "latentsmith"
FILES = sorted(PACKAGE.rglob("*.py"))

PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
YAML_MAY = {"safe_load", "safe_dump", "YAMLError"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
SERVERS = {
    "socket", "socketserver", "http.server", "xmlrpc.server", "aiohttp", "flask", "gradio",
    "uvicorn",
}  # fmt: skip
SERVERS_IN = {"explore/serve.py", "utils/told_once.py"}
"""Of the page, on loopback unless told otherwise: tests/unit/explore/test_explore_server.py. The
other asks whether anybody answers where torch.distributed was told to meet."""
UNPACKERS = {"extract", "extractall", "unpack_archive"}
CODE_BY_NAME = {"import_module", "import_from_string", "get_class", "get_method", "instantiate"}
BY_NAME_IN = {
    "registry.py", "metrics/registry.py", "cli/_main.py", "cli/doctor.py", "export/inline.py",
    "plugins.py", "explore/tab.py", "recipes/base.py", "__init__.py",
}  # fmt: skip
"""Where modules are imported by a name in a variable: this package's own files, packages in a list
there, and plug-ins, which the user installed or named."""
MARKUP_IN = {"reports/page.py", "reports/strip.py"}


def faults(tree: ast.AST, file: str = "") -> Iterator[tuple[int, str]]:
    """(line, what is wrong there)."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    if name.name.split(".")[0] in PICKLERS - {"pickle"}:
                        yield node.lineno, f"import {name.name}"
                    if name.name in SERVERS and file not in SERVERS_IN:
                        yield node.lineno, f"a server: import {name.name}"
            case ast.ImportFrom(module=str(module), names=names):
                taken = {name.name for name in names}
                if module.split(".")[0] in PICKLERS and taken - {"UnpicklingError"}:
                    yield node.lineno, f"from {module} import {taken}"
                serves = module in SERVERS or (module == "http" and "server" in taken)
                if serves and file not in SERVERS_IN:
                    yield node.lineno, f"a server: from {module}"
                if module == "yaml" and taken - YAML_MAY:
                    yield node.lineno, f"from yaml import {taken}"
                if taken & CODE_BY_NAME and file not in BY_NAME_IN:
                    yield node.lineno, f"code by name: {taken & CODE_BY_NAME}"
            case ast.Attribute(value=ast.Name(id="pickle"), attr=attr):
                if attr != "UnpicklingError":
                    yield node.lineno, f"pickle.{attr}"
            case ast.Attribute(value=ast.Name(id="yaml"), attr=attr):
                if attr not in YAML_MAY:
                    yield node.lineno, f"yaml.{attr}"
            case ast.keyword(arg="trust_remote_code", value=value):
                if not (isinstance(value, ast.Constant) and value.value is False):
                    yield node.value.lineno, "trust_remote_code"
            case ast.keyword(arg="shell", value=value):
                if not (isinstance(value, ast.Constant) and value.value is False):
                    yield node.value.lineno, "a shell"
            case ast.Call():
                yield from _calls(node, file)


def _calls(node: ast.Call, file: str) -> Iterator[tuple[int, str]]:
    told = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
    match node.func:
        case ast.Name(id=name) if name in BUILTINS:
            yield node.lineno, f"{name}()"
        case ast.Name(id="Markup") if file not in MARKUP_IN:
            yield node.lineno, "Markup()"
        case ast.Attribute(value=ast.Name(id="torch"), attr="load"):
            if told.get("weights_only") is not True:
                yield node.lineno, "torch.load without weights_only=True"
        case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="load"):
            if told.get("allow_pickle", "") is not False and file != "data/fields/terrain.py":
                yield node.lineno, "np.load without allow_pickle=False"
        case ast.Attribute(attr=attr) if attr in UNPACKERS:
            yield node.lineno, f"{attr}(): members may lead out of the folder"
        case ast.Attribute(attr="read_pickle" | "register_new_resolver" | "system" | "popen"):
            yield node.lineno, node.func.attr
        case ast.Attribute(attr=attr) if attr in CODE_BY_NAME and file not in BY_NAME_IN:
            yield node.lineno, f"code by name: {attr}()"


def test_nothing_unsafe_is_called():
    found = [
        f"{file.relative_to(PACKAGE)}:{line}: {what}"
        for file in FILES
        for line, what in faults(ast.parse(file.read_text()), str(file.relative_to(PACKAGE)))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "import dill",
        "from pickle import load",
        "pickle.loads(x)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "from yaml import Loader",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "importlib.import_module(name)",
        "from hydra.utils import instantiate",
        "hydra.utils.instantiate(config)",
        "AutoModel.from_pretrained(source, trust_remote_code=True)",
        "AutoModel.from_pretrained(source, trust_remote_code=trust)",
        "archive.extractall(folder)",
        "shutil.unpack_archive(file)",
        "OmegaConf.register_new_resolver('env', os.getenv)",
        "subprocess.run(line, shell=True)",
        "os.system(line)",
        "from http.server import HTTPServer",
        "import gradio",
        "Markup(caption)",
    ],
)
def test_each_rule_finds_what_it_is_for(line):
    assert list(faults(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, map_location='cpu', weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "from pickle import UnpicklingError",
        "yaml.safe_load(text)",
        "model.eval()",
        "AutoModel.from_pretrained(source, trust_remote_code=False)",
        "subprocess.run(['apt-get', 'download', name])",
    ],
)
def test_what_is_safe_passes(line):
    assert not list(faults(ast.parse(line)))
