# `ros2` runs under the system's Python, and launch files in it: what pip put into the active virtual environment over that Python
# is found there, too.
if [ -n "${VIRTUAL_ENV:-}" ] && grep -qs "^include-system-site-packages = true" "$VIRTUAL_ENV/pyvenv.cfg"; then
  for _omniad_packages in "$VIRTUAL_ENV"/lib/python3*/site-packages; do
    case ":${PYTHONPATH:-}:" in
      *":$_omniad_packages:"*) ;;
      *) PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$_omniad_packages" ;;
    esac
  done
  export PYTHONPATH
  unset _omniad_packages
fi
