#!/bin/sh
# Makes build/{{crate}}.wasm of the Python files here. The tools go into .venv, once.
set -e
if [ ! -x .venv/bin/componentize-py ]; then
  python3 -m venv .venv
  .venv/bin/pip install --quiet --disable-pip-version-check componentize-py==0.25.1
fi
if [ ! -d .venv/wit/deps ]; then
  # The interfaces of WASI, which the npm package of jco brings as text.
  npm pack --silent --pack-destination .venv @bytecodealliance/jco@1.35.0 >/dev/null
  mkdir -p .venv/wit
  tar -xzf .venv/bytecodealliance-jco-1.35.0.tgz -C .venv package/lib/wit/builtin/0.2.12
  mv .venv/package/lib/wit/builtin/0.2.12 .venv/wit/deps
  printf 'package local:app;\nworld app { include wasi:http/proxy@0.2.12; }\n' >.venv/wit/world.wit
fi
# A mistake in the syntax is found in a moment and not at the end.
python3 -c 'import ast, glob; [ast.parse(open(f).read(), f) for f in glob.glob("*.py")]'
rm -rf build/app
mkdir -p build/app
cp ./*.py build/app/
.venv/bin/componentize-py -q -d .venv/wit -w app componentize -p build/app app -o build/new.wasm
mv build/new.wasm build/{{crate}}.wasm
