"""The commands, each with the first line of its own docstring: python -m minirlhf"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent


def commands() -> dict[str, str]:
    """Command -> what it is for: the scripts beside the package, and every tool that has a main."""
    scripts = {f"python {path.name}": path for path in sorted(PACKAGE.parent.glob("*.py"))}
    tools = {f"python -m minirlhf.tools.{path.stem}": path for path in sorted(PACKAGE.glob("tools/*.py"))}
    found = {}
    for command, path in (scripts | tools).items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[command] = (ast.get_docstring(tree) or "").partition("\n")[0].partition(": python ")[0].rstrip(".")
    return found


def main() -> None:
    """Print them as a table."""
    every = commands()
    width = max(map(len, every))
    print("\n".join(f"{command:<{width}}  {what}" for command, what in every.items()))
    print("\nEach tells its options and examples: --help")


if __name__ == "__main__":
    main()
