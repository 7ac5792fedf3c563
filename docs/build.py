"""Make the API pages: ``python docs/build.py FOLDER`` (``make docs``). Warnings of pdoc make exit code 1."""

import sys
import warnings
from pathlib import Path

# NNI looks at all of torch.nn and wonders about two names that are younger than itself.
warnings.filterwarnings("ignore", message=".* is found to be not a nn.Module", category=RuntimeWarning)

import pdoc  # noqa: E402

import idarts_nni  # noqa: E402
import trials  # noqa: E402


def main(folder: Path) -> int:
    """Write the pages of both packages into a folder; return the exit code."""
    # Of the constructor that Python makes for a NamedTuple, whose annotations are text that belongs to no module.
    warnings.filterwarnings("ignore", message="Error parsing type annotation ForwardRef", category=UserWarning)
    for name in idarts_nni.__all__:
        setattr(idarts_nni, name, getattr(idarts_nni, name))  # which are looked up on demand, so that NNI starts fast
    introduction = Path(__file__).with_name("api.md").read_text(encoding="utf-8")
    for package in (idarts_nni, trials):
        package.__doc__ = f"{package.__doc__}\n\n{introduction}"
    pdoc.render.configure(docformat="numpy", math=False, footer_text="I-DARTS for Microsoft NNI")
    # Named one by one: where a package has __all__, pdoc leaves out the modules that are not in it.
    modules = [
        "idarts_nni",
        *(f"idarts_nni.{file.stem}" for file in sorted(Path(idarts_nni.__path__[0]).glob("[a-z]*.py"))),
    ]
    modules.append("trials")
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # nnictl imports it
    with warnings.catch_warnings(record=True) as caught:
        pdoc.pdoc(*modules, output_directory=folder)
    found = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
