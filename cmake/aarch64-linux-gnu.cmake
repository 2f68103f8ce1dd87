# Toolchain file: cross build for AArch64 Linux with Debian's gcc-aarch64-linux-gnu. Tests run under
# qemu-user where that is installed. scripts/check-cross uses it for the kernels; the whole program
# needs CMAKE_SYSROOT, a folder that holds its libraries for AArch64.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(LEANK_ROOT /usr/aarch64-linux-gnu)
if(CMAKE_SYSROOT)
  set(LEANK_ROOT ${CMAKE_SYSROOT})
endif()
set(CMAKE_FIND_ROOT_PATH ${LEANK_ROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
find_program(LEANK_QEMU NAMES qemu-aarch64 qemu-aarch64-static)
if(LEANK_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${LEANK_QEMU} -cpu max -L ${LEANK_ROOT})
endif()
