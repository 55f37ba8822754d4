# Makes the project's environment in .venv from the pinned versions; sourced by quickstart.sh, which needs what users
# need, and by test.sh, which sets `extra=dev` for the tools of development; what one installed serves the other.
# PYTHON names the interpreter to make it with (default: python3, 3.10 or newer).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
venv="$root/.venv"
wanted=$(cat pyproject.toml constraints.txt | cksum)
mark=$venv/installed${extra:+-$extra}

if [ "$(cat "$mark" 2>/dev/null)" != "$wanted" ]; then
    python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || {
        echo "megachar needs Python 3.10 or newer and found: $("$python" --version 2>&1 || echo none);" \
            "set PYTHON=/path/to/python3.11" >&2
        exit 1
    }
    echo "Installing megachar into .venv ($("$python" --version)); this takes a few minutes the first time."
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || {
        echo "this Python cannot make environments; on Debian: apt-get install python3-venv" >&2
        exit 1
    }
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}" || {
        echo "installation failed; the reason stands above" >&2
        exit 1
    }
    echo "$wanted" | tee "$venv/installed" "$mark" >/dev/null
fi
export PATH="$venv/bin:$PATH"
