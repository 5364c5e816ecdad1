// @stable-canvas/comfyui-client, for Node and browsers.
const { Client } = require("@stable-canvas/comfyui-client");
const WebSocket = require("ws");
const { address, picture, prompt, sha256, tell } = require("./common.cjs");

(async () => {
  const client = new Client({ api_host: address, WebSocket, fetch });
  await client.connect();
  const told = { progress: 0 };
  const output = await client.enqueue(prompt, { progress: () => told.progress++ });
  const urls = output.images.filter((one) => one.type === "url"); // the others are previews
  const refused = await client.queuePrompt(0, { prompt: {}, workflow: {} }).catch((error) => error.message);
  const body = new FormData();
  body.append("image", new Blob([picture]), "canvas.png");
  const answer = await client.fetchApi("/upload/image", { method: "POST", body });
  const { name } = await answer.json();
  tell({
    ...told,
    checkpoints: await client.getSDModels(),
    classes: Object.keys(await client.getNodeDefs()),
    ended: output.prompt_id,
    history: (await client.getHistory()).History.map((one) => one.prompt[1]),
    pictures: await Promise.all(urls.map(async ({ data }) => sha256(await fetch(data)))),
    refused,
    uploaded: name,
  });
})();
