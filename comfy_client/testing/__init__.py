"""For tests of programs that use ComfyUI."""
