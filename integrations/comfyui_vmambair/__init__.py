"""ComfyUI custom node: lets the stock "Load Upscale Model" open VmambaIR and OSSNet checkpoints.

ComfyUI loads such models with spandrel; importing vmambair_arch makes its networks known there. No nodes of its own.
"""

import vmambair_arch  # noqa: F401

NODE_CLASS_MAPPINGS: dict = {}
NODE_DISPLAY_NAME_MAPPINGS: dict = {}
