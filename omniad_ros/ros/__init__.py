"""The ROS face: inspector, nerf_renderer and sim_robot, and the conversion of their messages (the only user of rclpy)."""

import os

# Inspector and renderer share the cores of one machine: threads that wait must not spin. Read when libgomp is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
