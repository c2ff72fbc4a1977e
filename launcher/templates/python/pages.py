"""What is answered. Nothing here knows of WASM, so that the tests run in any Python."""

PAGE = """<!doctype html>
<title>{{name}}</title>
<h1>Hello from Python!</h1>
"""


def answer(target: str) -> tuple[int, str, str]:
    """The status, the content type and the text for a target."""
    path = target.partition("?")[0]
    if path == "/":
        return 200, "text/html; charset=utf-8", PAGE
    return 404, "text/plain; charset=utf-8", "no such page\n"
