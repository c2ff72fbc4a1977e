// componentize.mjs SOURCE WIT OUTPUT: componentize-js has no command of its own.
import { writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const [sourcePath, witPath, output] = process.argv.slice(2);
const { component } = await componentize({ sourcePath, witPath, worldName: "app" });
await writeFile(output, component);
