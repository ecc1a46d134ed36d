#!/usr/bin/env bash
# Builds this package in a workspace of its own by colcon, copied and with --symlink-install, and asks of each what an
# integrator asks: the command and the programs are found, run, and end with status 0; the quick tests pass under colcon
# test. Where ros2 is there, ros2 run and ros2 launch are asked as well.
#
#     tools/workspace.sh        # colcon of .venv (`make venv`), or of the sourced ROS 2 with the environment of docs/install.md
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
command -v colcon >/dev/null || PATH=$root/.venv/bin:$PATH
command -v colcon >/dev/null || { echo "tools/workspace.sh: no colcon; run 'make venv', or see docs/install.md" >&2; exit 1; }

workspace=$(mktemp -d)
trap 'rm -rf "$workspace"' EXIT
cd "$workspace"
mkdir src
ln -s "$root" src/omniad_ros
export COLCON_LOG_PATH=$workspace/log COLCON_EXTENSION_BLOCKLIST=colcon_core.event_handler.desktop_notification
export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ROS_DOMAIN_ID=$((RANDOM % 100 + 1))

fail() {
  echo "tools/workspace.sh: $*" >&2
  exit 1
}

# a node comes up without a site, stays, and ends with status 0 when it is told to
ends_well() {
  local said=$workspace/said.$(basename "$1") status=0
  timeout --preserve-status --signal=INT --kill-after=20 7 "$@" >"$said" 2>&1 || status=$?
  if [ $status != 0 ] || grep -q Traceback "$said"; then
    cat "$said" >&2
    fail "'$*' ended with status $status"
  fi
}

built() {
  local base=$1 programs=$workspace/$1/install/omniad_ros/lib/omniad_ros
  shift
  colcon build --packages-select omniad_ros --build-base "$base/build" --install-base "$base/install" "$@" >"$base.log" 2>&1 ||
    { cat "$base.log" >&2; fail "colcon build $* failed"; }
  (
    set +u
    source "$base/install/setup.bash"
    set -u
    cd /
    [ "$(command -v omniad)" = "$programs/omniad" ] || fail "omniad is not on the PATH after colcon build $*"
    for program in omniad inspector nerf_renderer sim_robot; do
      [ "$(head -n 1 "$programs/$program")" = "#!/usr/bin/env python3" ] ||
        fail "$program names an interpreter of its own: $(head -n 1 "$programs/$program")"
    done
    from=$(python3 -c 'import omniad_ros; print(omniad_ros.__file__)')
    [[ $from == "$workspace/$base"/* ]] || fail "omniad_ros is imported from $from"
    [[ $(omniad --help) == "usage: omniad"* ]] || fail "omniad --help says nothing"
    omniad doctor >"$workspace/said" 2>&1 || { cat "$workspace/said" >&2; fail "omniad doctor failed"; }
    ends_well "$programs/inspector" --ros-args -p autostart:=false & inspector=$!
    ends_well "$programs/nerf_renderer" --ros-args -p autostart:=false
    wait $inspector
    if command -v ros2 >/dev/null; then
      ros2 run omniad_ros omniad --version >/dev/null || fail "ros2 run omniad_ros omniad failed"
      for launch in inspect demo; do
        ros2 launch omniad_ros $launch.launch.py --show-args >/dev/null || fail "ros2 launch cannot read $launch.launch.py"
      done
    else
      echo "no ros2 here: ros2 run and ros2 launch were not asked"
    fi
  )
  echo "colcon build $*: omniad and its nodes are found and run"
}

mkdir copied linked
built copied
built linked --symlink-install

set +u
source copied/install/setup.bash
set -u
colcon test --packages-select omniad_ros --build-base copied/build --install-base copied/install \
  --return-code-on-test-failure --event-handlers console_direct- --pytest-args -m quick >test.log 2>&1 ||
  { cat test.log >&2; colcon test-result --test-result-base copied/build --verbose >&2; fail "colcon test failed"; }
colcon test-result --test-result-base copied/build | tail -n 1
