// The reference SDK, @saintno/comfyui-sdk.
const { CallWrapper, ComfyApi, PromptBuilder } = require("@saintno/comfyui-sdk");
const { picture, prompt, sha256, tell, url } = require("./common.cjs");

const run = (api, builder) =>
  new Promise((resolve) => {
    const told = { previews: 0, progress: 0 };
    new CallWrapper(api, builder)
      .onPending((id) => (told.ended = id))
      .onPreview(() => told.previews++)
      .onProgress(() => told.progress++)
      .onFinished((output) => resolve({ ...told, output }))
      .onFailed((error) => resolve({ ...told, failed: error.name }))
      .run();
  });

(async () => {
  const api = await new ComfyApi(url).init().waitForReady();
  const builder = new PromptBuilder(prompt, ["seed"], ["images"])
    .setInputNode("seed", "3.inputs.seed")
    .setOutputNode("images", "9");
  const { output, ...told } = await run(api, builder.clone().input("seed", 5));
  const unknown = { ...prompt, 3: { ...prompt[3], class_type: "NoSuchClass" } };
  const { failed } = await run(api, new PromptBuilder(unknown, [], ["images"]));
  const { info } = await api.uploadImage(picture, "sdk.png", { subfolder: "mine" });
  tell({
    ...told,
    checkpoints: await api.getCheckpoints(),
    classes: Object.keys(await api.getNodeDefs()),
    history: Object.keys(await api.getHistories()),
    pictures: await Promise.all(output.images.images.map(async (one) => sha256(await api.getImage(one)))),
    refused: failed,
    uploaded: `${info.subfolder}/${info.filename}`,
  });
})();
