"""The ROS face: inspector, nerf_renderer and sim_robot, and the conversion of their messages (the only user of rclpy)."""
