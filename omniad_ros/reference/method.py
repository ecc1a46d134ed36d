"""`grid-field` as nerfstudio's plug-in: `ns-train grid-field --data …` once this package is installed."""

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from omniad_ros.reference.datamanager import GridFieldDataManagerConfig
from omniad_ros.reference.model import GridFieldModelConfig, SparseAdamConfig

STEPS = 2500


def _decay(final: float) -> ExponentialDecaySchedulerConfig:
    return ExponentialDecaySchedulerConfig(lr_final=final, max_steps=STEPS)


grid_field = MethodSpecification(
    config=TrainerConfig(
        method_name="grid-field", max_num_iterations=STEPS, steps_per_save=STEPS, steps_per_eval_batch=STEPS,
        steps_per_eval_image=STEPS, steps_per_eval_all_images=STEPS, mixed_precision=False,
        pipeline=VanillaPipelineConfig(datamanager=GridFieldDataManagerConfig(), model=GridFieldModelConfig(steps=STEPS)),
        optimizers={
            "grid": {"optimizer": SparseAdamConfig(lr=0.3), "scheduler": _decay(0.01)},
            "sky": {"optimizer": AdamOptimizerConfig(lr=0.01), "scheduler": _decay(0.001)},
            "shader": {"optimizer": AdamOptimizerConfig(lr=3e-3), "scheduler": _decay(3e-4)},
            "exposure": {"optimizer": AdamOptimizerConfig(lr=1e-3), "scheduler": _decay(1e-4)},
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15), vis="viewer",
    ),
    description="Sparse voxel radiance field that trains in minutes on a CPU (omniad_ros).",
)  # fmt: skip
