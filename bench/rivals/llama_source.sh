# shellcheck shell=bash
# Sourced by the build_* scripts beside it: llama.cpp's sources, from the source package of
# llama-cpp-python, and ggml's options for this processor.

# Figures of different versions are not compared.
llama_version=0.3.36

# Makes $1/source-$llama_version, unless it is there, and prints the folder of llama.cpp in it.
llama_source() {
  local source=$1/source-$llama_version
  if [ ! -d "$source" ]; then
    mkdir -p "$1"
    python3 -m venv "$1/venv" >&2
    "$1/venv/bin/python" -m pip install --quiet scikit-build-core >&2
    "$1/venv/bin/python" -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation \
      --dest "$1/sdist" "llama-cpp-python==$llama_version" >&2
    mkdir -p "$source.new"
    tar xzf "$1/sdist/llama_cpp_python-$llama_version.tar.gz" -C "$source.new" --strip-components=1
    mv "$source.new" "$source"
  fi
  echo "$source/vendor/llama.cpp"
}

# The instruction sets one by one, from what this processor has: the automatic choice takes AMX too,
# which crashed on a machine we had. One option a line.
ggml_options() {
  local pair
  echo -DCMAKE_BUILD_TYPE=Release
  echo -DGGML_NATIVE=OFF
  for pair in AVX:avx AVX2:avx2 BMI2:bmi2 FMA:fma F16C:f16c AVX512:avx512f AVX512_VNNI:avx512_vnni \
    AVX512_BF16:avx512_bf16 AVX512_VBMI:avx512vbmi; do
    if grep -qw "${pair#*:}" /proc/cpuinfo; then
      echo "-DGGML_${pair%:*}=ON"
    else
      echo "-DGGML_${pair%:*}=OFF"
    fi
  done
}

llama_default_folder() { echo "${XDG_CACHE_HOME:-$(echo ~)/.cache}/leank/llama.cpp"; }
