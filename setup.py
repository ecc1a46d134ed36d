"""Packaging, for colcon (ament_python) and for pip alike; the dependencies stand in requirements*.txt and package.xml."""

import re
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.develop import develop

NAME = "omniad_ros"
VERSION = re.search(r'__version__ = "(.+?)"', Path(NAME, "__init__.py").read_text()).group(1)


def requirements(file: str) -> list[str]:
    """The lines of a requirement file without its comments. It lies beside this file, which colcon links into its build folder."""
    text = (Path(__file__).resolve().parent / file).read_text()
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


class Develop(develop):
    """`colcon build --symlink-install`: its scripts, too, name the interpreter of setup.cfg's [build_scripts]."""

    def install_wrapper_scripts(self, dist) -> None:
        from setuptools.command.easy_install import ScriptWriter

        executable = self.get_finalized_command("build_scripts").executable
        for arguments in ScriptWriter.best().get_args(dist, f"#!{executable}\n"):
            self.write_script(*arguments)


setup(
    name=NAME,
    version=VERSION,
    description="Notices on a patrol what differs from a place's surveyed, normal state.",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={
        f"{NAME}.detection": ["weights/*.safetensors"],
        f"{NAME}.living": ["migrations/*.mako"],
        f"{NAME}.report": ["*.html", "*.css"],
        f"{NAME}.ros": ["*.xml"],
        f"{NAME}.web": ["templates/*.html", "static/*"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", glob("launch/*.launch.py")),
        (f"share/{NAME}/config", glob("config/*")),
        (f"share/{NAME}/hook", glob("hook/*")),
    ],
    extras_require={
        "robot": requirements("requirements-robot.txt"),
        "build": requirements("requirements.txt"),
        # where ROS's messages do not bear numpy 2, which newer versions need
        "viewer": ["rerun-sdk>=0.23", 'pyarrow<22; python_version < "3.13"'],
        "features": requirements("requirements-features.txt"),
        "web": ["fastapi", "uvicorn", "paho-mqtt"],
        "test": ["pytest", "pytest-timeout"],
    },
    zip_safe=False,
    cmdclass={"develop": Develop},
    entry_points={
        "console_scripts": [
            "omniad = omniad_ros.cli:main",
            "inspector = omniad_ros.ros.start:inspector",
            "nerf_renderer = omniad_ros.ros.start:nerf_renderer",
            "sim_robot = omniad_ros.ros.start:sim_robot",
        ],
        "nerfstudio.method_configs": ["grid-field = omniad_ros.reference.method:grid_field"],
    },
)
