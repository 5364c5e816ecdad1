"""What comfy-api-simplified gets of a server, in its own environment."""

import hashlib
import json
import os
import sys

from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
from comfy_api_simplified.exceptions import ComfyApiError

prompt_file, picture_file = sys.argv[1:]
api = ComfyApiWrapper(os.environ["COMFYUI_HOST"])
workflow = ComfyWorkflowWrapper(prompt_file)
pictures = api.queue_and_wait_images(workflow, "Save")
loader = api.get_object_info("CheckpointLoaderSimple")["CheckpointLoaderSimple"]
uploaded = api.upload_image(picture_file, "mine")
try:
    api.queue_prompt({})
except ComfyApiError as exc:
    refused = str(exc)
found = {
    "checkpoints": loader["input"]["required"]["ckpt_name"][0],
    "classes": [*api.get_object_info()],
    "pictures": [hashlib.sha256(one).hexdigest() for one in pictures.values()],
    "refused": refused,
    "uploaded": f"{uploaded['subfolder']}/{uploaded['name']}",
}
print(json.dumps(found))
