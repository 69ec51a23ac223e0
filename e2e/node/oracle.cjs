// Answers the questions on standard input with @conda-org/rattler, one JSON object a line, in order.
//
//   {"specs": […], "channels": [URL…], "platforms": […]}   →  {"packages": ["subdir/file"…]} or {"error": text}
//   {"compare": [[a, b]…]}                                  →  {"answers": [-1 | 0 | 1 | null…]}, null for a refusal
//   {"match": [[spec, version]…]}                           →  {"answers": [true | false | null…]}

const readline = require("node:readline");
const path = require("node:path");
const { createRequire } = require("node:module");

// The module lies where scripts/e2e.sh installed it, beside the virtual environment and not beside this file.
const modules = createRequire(path.join(process.argv[2], "package.json"));
const { simpleSolve, Version, VersionSpec } = modules("@conda-org/rattler");

function attempt(f) {
  try {
    return f();
  } catch {
    return null;
  }
}

function compare([a, b]) {
  const [x, y] = [new Version(a), new Version(b)];
  return x.compare(y);
}

function match([spec, version]) {
  return new VersionSpec(spec).matches(new Version(version));
}

async function answer(q) {
  if (q.compare) return { answers: q.compare.map((pair) => attempt(() => compare(pair))) };
  if (q.match) return { answers: q.match.map((pair) => attempt(() => match(pair))) };
  try {
    const found = await simpleSolve(q.specs, q.channels, q.platforms, []);
    return { packages: found.map((p) => `${p.subdir}/${p.filename}`).sort() };
  } catch (error) {
    return { error: String(error?.message ?? error) };
  }
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const text = JSON.stringify(await answer(JSON.parse(line)));
    await new Promise((done) => process.stdout.write(text + "\n", done));
  }
  process.exit(0); // connections that are kept alive would keep it for seconds
}

main();
