import inspect
import subprocess
import sys

import pal

HEAVY = ("sentence_transformers", "transformers", "matplotlib", "jinja2", "sklearn", "scipy", "pandas", "pyarrow")


def test_all_is_sorted_and_complete():
    assert list(pal.__all__) == sorted(set(pal.__all__))
    public = {
        name
        for name, value in vars(pal).items()
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
    }
    assert public <= set(pal.__all__)
    for name in pal.__all__:
        assert hasattr(pal, name), name


def test_every_error_is_public():
    from pal import errors

    assert set(errors.__all__) <= set(pal.__all__)
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), pal.PALError)


def test_every_public_name_is_described():
    for name in set(pal.__all__) - {"__version__"}:
        value = getattr(pal, name)
        assert inspect.getdoc(value), name
        if inspect.isclass(value):
            for attribute, method in vars(value).items():
                if not attribute.startswith("_") and (inspect.isfunction(method) or isinstance(method, classmethod)):
                    assert inspect.getdoc(getattr(value, attribute)), f"{name}.{attribute}"


def test_importing_pal_imports_nothing_that_is_optional():
    script = f"import pal, sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    assert done.stderr == ""


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert version("pal-alignment") == pal.__version__
