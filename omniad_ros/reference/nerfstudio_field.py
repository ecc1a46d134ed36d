"""Fields of nerfstudio's own methods (nerfacto, splatfacto, …): kept as safetensors, rebuilt from the method's name and options.

Their coverage comes from small depth maps of the training views: a point is covered where enough of them saw it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import read_json, write_atomically, write_json
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.reference.configuration import method_config
from omniad_ros.reference.coverage import LEAST_VIEWS
from omniad_ros.reference.field import Rendering
from omniad_ros.reference.trainer import silent_nerfstudio, tensors
from omniad_ros.reference.visibility import VISIBILITY, DepthViews, count_views

COVERED_OPACITY = 0.7
Row = tuple[float, float, float, float]


class _Method(msgspec.Struct, kw_only=True):
    """Of field.json: what must be installed."""

    method: str
    options: list[str] = []


class _FieldFile(_Method, kw_only=True):
    """field.json; what else a build noted there is passed over."""

    views: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    transform: tuple[Row, Row, Row]
    scale: Annotated[float, msgspec.Meta(gt=0)]
    camera: Camera


def place_in_unit_box(config) -> None:
    """Have the dataparser scale the survey into nerfstudio's unit box without turning it, and trust the map's poses."""
    parser, model = config.pipeline.datamanager.dataparser, config.pipeline.model
    parser.orientation_method, parser.center_method, parser.auto_scale_poses = "none", "poses", True
    if hasattr(model, "camera_optimizer"):
        model.camera_optimizer.mode = "off"


class NerfstudioField:
    """transform (3, 4) and scale: from the map to the model's coordinates, ``scale * (transform @ x)``; survey: what the field
    has in the training views, of ``camera``."""

    def __init__(self, model, transform: np.ndarray, scale: float):
        self.model, self.transform, self.scale = model, np.asarray(transform, np.float64), float(scale)
        self.camera: Camera | None = None
        self.survey: DepthViews | None = None

    def _outputs(self, camera: Camera, pose: Pose) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Colour (H, W, 3), depth along the axis in metres (H, W), opacity (H, W)."""
        import torch
        from nerfstudio.cameras.cameras import Cameras, CameraType

        matrix = self.transform @ pose.opengl()
        matrix[:, 3] *= self.scale
        cameras = Cameras(
            torch.from_numpy(matrix[None]).float(), camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height,
            camera_type=CameraType.PERSPECTIVE,
        ).to(self.model.device)  # fmt: skip
        splats, device = hasattr(self.model, "gauss_params"), torch.device(self.model.device).type
        # gsplat's kernels take single precision only
        with torch.no_grad(), torch.autocast(device, enabled=device == "cuda" and not splats):
            outputs = self.model.get_outputs_for_camera(cameras)
        colour, depth, opacity = (outputs[name].float().cpu().numpy() for name in ("rgb", "depth", "accumulation"))
        depth = depth[..., 0] / self.scale
        if not splats:  # along the ray; splats give it along the axis
            depth = depth / np.linalg.norm(camera.directions(), axis=-1)
        return colour, depth, opacity[..., 0]

    def render(self, camera: Camera, pose: Pose) -> Rendering:
        """See `Field.render`."""
        colour, depth, opacity = self._outputs(camera, pose)
        points = pose.apply(camera.directions() * depth[..., None]).reshape(-1, 3)
        seen, _, _ = count_views(points, self.survey, VISIBILITY.nerfstudio)
        covered = (opacity > COVERED_OPACITY) & (seen.reshape(depth.shape) >= LEAST_VIEWS)
        image = (np.clip(colour, 0, 1) * 255 + 0.5).astype(np.uint8)
        return Rendering(image, np.where(covered, depth, np.nan).astype(np.float32))

    def examine(self, camera: Camera, poses: list[Pose]) -> None:
        """Fill in ``survey``: what the field has in each training view, at ``camera``'s small size."""
        rendered = [self._outputs(camera, pose) for pose in poses]
        depths = np.array([np.where(opacity > 0.5, depth, 0) for _, depth, opacity in rendered], np.float32)
        self.camera, self.survey = camera, DepthViews.of(poses, camera, depths)

    def save(self, directory: Path, info: dict) -> None:
        """Write field.json and weights.safetensors; info: at least method, options and views, from which `load` rebuilds it."""
        import torch
        from safetensors.torch import save

        state = tensors(self.model)
        state["training.depths"] = torch.from_numpy(self.survey.depths)
        poses = np.tile(np.eye(4), (len(self.survey.positions), 1, 1))
        poses[:, :3, :3], poses[:, :3, 3] = self.survey.rotations, self.survey.positions
        state["training.poses"] = torch.from_numpy(poses)
        write_atomically(directory / "weights.safetensors", save(state))
        write_json(directory / "field.json", {
            **info, "transform": self.transform.tolist(), "scale": self.scale, "camera": self.camera.to_dict(),
        })  # fmt: skip

    @staticmethod
    def load(directory: Path) -> NerfstudioField:
        """Raises OmniadError where the files are not a field of an installed nerfstudio method."""
        import torch
        from safetensors.torch import load_file

        try:
            from nerfstudio.data.scene_box import SceneBox

            with silent_nerfstudio():
                trained = read_json(directory / "field.json", _Method)
                config = method_config(trained.method, trained.options)
                info = read_json(directory / "field.json", _FieldFile)
                place_in_unit_box(config)
                device = "cuda" if torch.cuda.is_available() else "cpu"
                box = SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))
                model = config.pipeline.model.setup(
                    scene_box=box,
                    num_train_data=info.views,
                    metadata={},
                    device=device,
                    grad_scaler=None,
                    seed_points=None,
                )
                state = load_file(directory / "weights.safetensors")
                depths, poses = state.pop("training.depths"), state.pop("training.poses")
                if set(state) != set(tensors(model)):
                    raise OmniadError(
                        f"the weights in {directory} are not those of nerfstudio's {info.method}; build the site again"
                    )
                model.load_state_dict(state, strict=False)
            field = NerfstudioField(model.to(device).eval(), np.array(info.transform), info.scale)
            field.camera = info.camera
            field.survey = DepthViews.of(
                [Pose(p[:3, :3], p[:3, 3]) for p in poses.numpy()], field.camera, depths.numpy()
            )
            return field
        except OmniadError:
            raise
        except Exception as error:
            raise OmniadError(
                f"{directory} holds no radiance field that can be read ({error}); build the site again"
            ) from error
