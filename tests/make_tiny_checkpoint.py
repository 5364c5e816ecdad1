#!/usr/bin/env python3
"""Make a tiny Stable Diffusion 1.5 shaped checkpoint with random weights.

ComfyUI tells an SD1.5 checkpoint by a few numbers only (320 base channels,
768 wide text context, 1x1-convolution projections). How many levels, blocks
and transformer layers the UNet has is read from the tensors in the file, so a
UNet of one level with one block is loaded like the full one. The VAE may be a
TAESD (2.4 million weights), which ComfyUI knows by its tensor names. Only the
text encoder (CLIP-L, 12 layers, 123 million weights) has a fixed size.

Two ways to store that:

  *.ckpt         A torch file whose large tensors are overlapping views of one
                 small buffer of random numbers. torch keeps views as views, so
                 the file is a few MB. Loads in ComfyUI's safe mode.
  *.safetensors  Every tensor in full, half precision: about 300 MB.

The weights are random but not shapeless: the UNet roughly passes its input
through, so it predicts "everything is noise", sampling converges, and the
result depends on seed, prompt, steps, sampler and cfg without ever reaching
NaN. The VAE blurs the latent up to full size in fixed, made-up colours: soft
blobs. Nothing here comes from a trained model.

Needs torch, and safetensors for *.safetensors.

  make_tiny_checkpoint.py --out DIR/checkpoints/tiny.ckpt
  make_tiny_checkpoint.py --out DIR/checkpoints/tiny.ckpt --models-dir DIR
      also writes DIR/unet/tiny_unet.*, DIR/clip/tiny_clip.*, DIR/vae/tiny_vae.*
      (for UNETLoader, CLIPLoader, VAELoader) and DIR/vae_approx/taesd_*.
"""

import argparse
import os
import sys
import time

import torch

CH = 320  # base channels of the UNet: what makes it "SD1.5"
EMB = CH * 4  # width of the time embedding
CTX = 768  # width of the text context: what makes it "SD1.5"
LATENT = 4
VAE_CH = 64
STD = 0.02  # of nearly all random weights
FAINT = 0.002  # of those that add to what the UNet passes through


class Noise:
    """Random tensors cut, overlapping, from one buffer."""

    def __init__(self, seed, count=1 << 20):
        generator = torch.Generator().manual_seed(seed)
        self.generator = generator
        noise = torch.randn(count, generator=generator)
        self.buffer = (noise * STD).half()
        self.faint = (noise[: 1 << 17] * FAINT).half()

    def view(self, *shape, buffer=None):
        buffer = self.buffer if buffer is None else buffer
        rows = shape[0]
        row = 1
        for n in shape[1:]:
            row *= n
        if len(shape) == 1:
            rows, row = 1, shape[0]
        step = 7 if rows > 4096 else 131
        span = (rows - 1) * step + row
        room = buffer.numel() - span
        if room < 0:
            raise ValueError(f"shape {shape} does not fit the buffer")
        start = int(torch.randint(0, room + 1, (1,), generator=self.generator))
        strides = []
        inner = 1
        for n in reversed(shape[1:]):
            strides.insert(0, inner)
            inner *= n
        strides.insert(0, step if len(shape) > 1 else 1)
        return torch.as_strided(buffer, shape, strides, start)

    def own(self, *shape, std=STD):
        return (torch.randn(*shape, generator=self.generator) * std).half()


class Constants:
    """Constant tensors, each one number seen through zero strides."""

    def __init__(self):
        self.one = torch.ones(1).half()
        self.zero = torch.zeros(1).half()

    def ones(self, *shape):
        return self.one.expand(*shape)

    def zeros(self, *shape):
        return self.zero.expand(*shape)


def norm(sd, const, key, n):
    sd[key + ".weight"] = const.ones(n)
    sd[key + ".bias"] = const.zeros(n)


def linear(sd, noise, const, key, out, inp, bias=True):
    sd[key + ".weight"] = noise.view(out, inp)
    if bias:
        sd[key + ".bias"] = const.zeros(out)


def conv(sd, noise, const, key, out, inp, size, bias=True, faint=False):
    sd[key + ".weight"] = noise.view(out, inp, size, size, buffer=noise.faint if faint else None)
    if bias:
        sd[key + ".bias"] = const.zeros(out)


# ---------------------------------------------------------------- UNet


def sign_and_latent(channel):
    """Stream channel -> (sign, latent channel) it carries."""
    return (1.0 if channel % 2 == 0 else -1.0), (channel // 2) % LATENT


def res_block(sd, noise, const, key, inp, out):
    norm(sd, const, key + ".in_layers.0", inp)
    conv(sd, noise, const, key + ".in_layers.2", out, inp, 3)
    linear(sd, noise, const, key + ".emb_layers.1", out, EMB)
    norm(sd, const, key + ".out_layers.0", out)
    conv(sd, noise, const, key + ".out_layers.3", out, out, 3, faint=True)
    if inp != out:
        # half of the stream, half of what the skip connection brings
        eye = torch.eye(out)
        skip = torch.cat([eye * 0.5, eye * 0.5], dim=1).half()
        sd[key + ".skip_connection.weight"] = skip.reshape(out, inp, 1, 1)
        sd[key + ".skip_connection.bias"] = const.zeros(out)


def transformer(sd, noise, const, key, n):
    norm(sd, const, key + ".norm", n)
    conv(sd, noise, const, key + ".proj_in", n, n, 1)
    block = key + ".transformer_blocks.0"
    for attention, context in (("attn1", n), ("attn2", CTX)):
        at = f"{block}.{attention}"
        linear(sd, noise, const, at + ".to_q", n, n, bias=False)
        linear(sd, noise, const, at + ".to_k", n, context, bias=False)
        linear(sd, noise, const, at + ".to_v", n, context, bias=False)
        linear(sd, noise, const, at + ".to_out.0", n, n)
    linear(sd, noise, const, block + ".ff.net.0.proj", n * 8, n)
    linear(sd, noise, const, block + ".ff.net.2", n, n * 4)
    for i in (1, 2, 3):
        norm(sd, const, f"{block}.norm{i}", n)
    conv(sd, noise, const, key + ".proj_out", n, n, 1, faint=True)


def make_unet(noise, const):
    sd = {}
    linear(sd, noise, const, "time_embed.0", EMB, CH)
    linear(sd, noise, const, "time_embed.2", EMB, EMB)

    # The stream holds the latent 80 times over, half of them negated, so that
    # SiLU(z) - SiLU(-z) = z gives it back at the end.
    first = torch.zeros(CH, LATENT, 3, 3)
    for c in range(CH):
        sign, latent = sign_and_latent(c)
        first[c, latent, 1, 1] = sign
    sd["input_blocks.0.0.weight"] = first.half()
    sd["input_blocks.0.0.bias"] = const.zeros(CH)

    res_block(sd, noise, const, "input_blocks.1.0", CH, CH)
    transformer(sd, noise, const, "input_blocks.1.1", CH)

    res_block(sd, noise, const, "middle_block.0", CH, CH)
    transformer(sd, noise, const, "middle_block.1", CH)
    res_block(sd, noise, const, "middle_block.2", CH, CH)

    for i in (0, 1):
        res_block(sd, noise, const, f"output_blocks.{i}.0", CH * 2, CH)
        transformer(sd, noise, const, f"output_blocks.{i}.1", CH)

    norm(sd, const, "out.0", CH)
    last = torch.zeros(LATENT, CH, 3, 3)
    pairs = CH // 2 // LATENT
    for c in range(CH):
        sign, latent = sign_and_latent(c)
        last[latent, c, 1, 1] = sign / pairs
    sd["out.2.weight"] = last.half()
    sd["out.2.bias"] = const.zeros(LATENT)
    return sd


# ---------------------------------------------------------------- CLIP-L


def make_clip(noise, const):
    sd = {}
    sd["embeddings.token_embedding.weight"] = noise.view(49408, CTX)
    sd["embeddings.position_embedding.weight"] = noise.view(77, CTX)
    for i in range(12):
        layer = f"encoder.layers.{i}"
        norm(sd, const, layer + ".layer_norm1", CTX)
        norm(sd, const, layer + ".layer_norm2", CTX)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(sd, noise, const, f"{layer}.self_attn.{part}", CTX, CTX)
        linear(sd, noise, const, layer + ".mlp.fc1", CTX * 4, CTX)
        linear(sd, noise, const, layer + ".mlp.fc2", CTX, CTX * 4)
    norm(sd, const, "final_layer_norm", CTX)
    return {"text_model." + k: v for k, v in sd.items()}


# ---------------------------------------------------------------- TAESD

# Rows: latent channels; columns: red, green, blue. Made up.
COLOURS = torch.tensor(
    [
        [0.36, 0.08, 0.06],
        [0.05, 0.34, 0.12],
        [0.08, 0.10, 0.38],
        [-0.20, -0.22, -0.18],
    ]
)

BLUR = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16


def each_to_itself(kernel, n=VAE_CH):
    w = torch.zeros(n, n, 3, 3)
    for c in range(n):
        w[c, c] = kernel
    return w


def vae_block(sd, noise, key):
    # conv, ReLU, conv, ReLU, conv, plus the input: a small random texture
    for i, std in ((0, 0.04), (2, 0.04), (4, 0.006)):
        sd[f"{key}.conv.{i}.weight"] = noise.own(VAE_CH, VAE_CH, 3, 3, std=std)
        sd[f"{key}.conv.{i}.bias"] = noise.own(VAE_CH, std=0.02)


def make_vae_decoder(noise):
    sd = {}
    first = torch.zeros(VAE_CH, LATENT, 3, 3)
    for c in range(VAE_CH):
        sign, latent = sign_and_latent(c)
        first[c, latent, 1, 1] = sign
    sd["1.weight"] = first.half()
    sd["1.bias"] = torch.zeros(VAE_CH).half()
    for i in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        vae_block(sd, noise, str(i))
    for i in (7, 12, 17):
        sd[f"{i}.weight"] = each_to_itself(BLUR).half()
    last = torch.zeros(3, VAE_CH, 3, 3)
    pairs = VAE_CH // 2 // LATENT
    for c in range(VAE_CH):
        sign, latent = sign_and_latent(c)
        last[:, c, 1, 1] = sign * COLOURS[latent] / pairs
    sd["19.weight"] = last.half()
    sd["19.bias"] = torch.full((3,), 0.5).half()
    return sd


def make_vae_encoder(noise):
    sd = {}
    back = torch.linalg.pinv(COLOURS)  # colours -> latent
    first = torch.zeros(VAE_CH, 3, 3, 3)
    for c in range(VAE_CH):
        first[c, (c // 2) % 3, 1, 1] = 1.0  # colours are never negative
    sd["0.weight"] = first.half()
    sd["0.bias"] = torch.zeros(VAE_CH).half()
    for i in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13):
        vae_block(sd, noise, str(i))
    for i in (2, 6, 10):
        sd[f"{i}.weight"] = each_to_itself(BLUR).half()
    last = torch.zeros(LATENT, VAE_CH, 3, 3)
    bias = -(back.t() @ torch.full((3,), 0.5))
    counts = [sum(1 for c in range(VAE_CH) if (c // 2) % 3 == k) for k in range(3)]
    for c in range(VAE_CH):
        k = (c // 2) % 3
        last[:, c, 1, 1] = back[k] / counts[k]
    sd["14.weight"] = last.half()
    sd["14.bias"] = bias.half()
    return sd


def make_vae(noise):
    sd = {"taesd_encoder." + k: v for k, v in make_vae_encoder(noise).items()}
    sd.update({"taesd_decoder." + k: v for k, v in make_vae_decoder(noise).items()})
    sd["vae_scale"] = torch.tensor(1.0)
    sd["vae_shift"] = torch.tensor(0.0)
    return sd


# ---------------------------------------------------------------- files


def save(sd, path):
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    root, ext = os.path.splitext(path)
    partial = root + ".partial" + ext
    started = time.time()
    if ext == ".safetensors":
        import safetensors.torch

        full = {k: v.clone(memory_format=torch.contiguous_format) for k, v in sd.items()}
        safetensors.torch.save_file(full, partial)
    else:
        torch.save(sd if ext == ".pth" else {"state_dict": sd}, partial)
    os.replace(partial, path)
    count = sum(v.numel() for v in sd.values())
    print(
        f"{path}: {os.path.getsize(path) / 1e6:.1f} MB, {len(sd)} tensors, "
        f"{count / 1e6:.1f} M weights, {time.time() - started:.1f} s"
    )


def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--out", help="checkpoint to write, *.ckpt or *.safetensors")
    ap.add_argument(
        "--models-dir",
        help="ComfyUI models folder for the separate UNet, CLIP, VAE and preview decoder files",
    )
    ap.add_argument(
        "--separate-ext",
        default=".ckpt",
        choices=[".ckpt", ".safetensors"],
        help="kind of the separate files (default: %(default)s)",
    )
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args(argv)
    if not args.out and not args.models_dir:
        ap.error("give --out, --models-dir, or both")
    if args.out and os.path.splitext(args.out)[1] not in (".ckpt", ".safetensors"):
        ap.error("--out must end in .ckpt or .safetensors")

    noise, const = Noise(args.seed), Constants()
    unet, clip, vae = make_unet(noise, const), make_clip(noise, const), make_vae(noise)

    if args.out:
        sd = {"model.diffusion_model." + k: v for k, v in unet.items()}
        sd.update({"cond_stage_model.transformer." + k: v for k, v in clip.items()})
        sd.update({"first_stage_model." + k: v for k, v in vae.items()})
        save(sd, args.out)
    if args.models_dir:
        ext = args.separate_ext
        save(unet, os.path.join(args.models_dir, "unet", "tiny_unet" + ext))
        save(clip, os.path.join(args.models_dir, "clip", "tiny_clip" + ext))
        save(vae, os.path.join(args.models_dir, "vae", "tiny_vae" + ext))
        for part in ("encoder", "decoder"):
            head = f"taesd_{part}."
            sd = {k[len(head) :]: v for k, v in vae.items() if k.startswith(head)}
            save(sd, os.path.join(args.models_dir, "vae_approx", f"taesd_{part}.pth"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
