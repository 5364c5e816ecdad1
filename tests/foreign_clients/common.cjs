// What each script is given, and how it tells what its client has got.
const { createHash } = require("node:crypto");
const { readFileSync } = require("node:fs");

const [promptFile, pictureFile] = process.argv.slice(2);
const url = process.env.COMFYUI_HOST;

/** The SHA-256 of a picture, by which the test finds its file. */
const sha256 = async (blob) =>
  createHash("sha256")
    .update(Buffer.from(await blob.arrayBuffer()))
    .digest("hex");

/** Prints what came of a client, and ends, whatever sockets and timers it has left. */
const tell = (found) => process.stdout.write(JSON.stringify(found) + "\n", () => process.exit());

module.exports = {
  address: url.replace("http://", ""),
  picture: readFileSync(pictureFile),
  prompt: JSON.parse(readFileSync(promptFile)),
  sha256,
  tell,
  url,
};
