// Makes hello.wasm of hello.js, as a project of `launcher new --template javascript` does.
import { cp, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const wit = "wit";
await mkdir(`${wit}/deps`, { recursive: true });
await cp("node_modules/@bytecodealliance/jco/lib/wit/builtin/0.2.12", `${wit}/deps`, { recursive: true });
for (const name of await readdir(`${wit}/deps`)) {
  const file = `${wit}/deps/${name}/package.wit`;
  await writeFile(file, (await readFile(file, "utf8")).replaceAll("0.2.12", "0.2.10"));
}
await writeFile(`${wit}/world.wit`, "package local:app;\nworld app { include wasi:http/proxy@0.2.10; }\n");
const { component } = await componentize({ sourcePath: "hello.js", witPath: wit, worldName: "app" });
await writeFile("hello.wasm", component);
