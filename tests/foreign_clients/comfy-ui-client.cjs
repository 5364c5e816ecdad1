// comfy-ui-client, for Node.
const { randomUUID } = require("node:crypto");
const { ComfyUIClient } = require("comfy-ui-client");
const { address, picture, prompt, sha256, tell } = require("./common.cjs");

(async () => {
  const client = new ComfyUIClient(address, randomUUID());
  await client.connect();
  const images = await client.getImages(prompt);
  const history = Object.keys(await client.getHistory());
  const refused = await client.queuePrompt({}).catch((error) => error.message);
  const { name } = await client.uploadImage(picture, "client.png", true);
  tell({
    checkpoints: (await client.getObjectInfo("CheckpointLoaderSimple")).CheckpointLoaderSimple.input
      .required.ckpt_name[0],
    classes: Object.keys(await client.getObjectInfo()),
    ended: history.at(-1),
    history,
    pictures: await Promise.all(images[9].map((one) => sha256(one.blob))),
    refused,
    uploaded: name,
  });
})();
