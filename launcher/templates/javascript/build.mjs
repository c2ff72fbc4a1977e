// Makes build/{{crate}}.wasm of app.js.
import { cp, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

// The interfaces of WASI come with jco as 0.2.12, and the engine of componentize-js wants 0.2.10: those that it uses are
// the same in both.
const deps = "build/wit/deps";
await mkdir(deps, { recursive: true });
await cp("node_modules/@bytecodealliance/jco/lib/wit/builtin/0.2.12", deps, { recursive: true });
for (const name of await readdir(deps)) {
  const file = `${deps}/${name}/package.wit`;
  await writeFile(file, (await readFile(file, "utf8")).replaceAll("0.2.12", "0.2.10"));
}
await writeFile("build/wit/world.wit", "package local:app;\nworld app { include wasi:http/proxy@0.2.10; }\n");

const { component } = await componentize({ sourcePath: "app.js", witPath: "build/wit", worldName: "app" });
await writeFile("build/{{crate}}.wasm", component);
