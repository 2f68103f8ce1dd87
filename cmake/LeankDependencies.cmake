# Libraries the project stands on. Fills LEANK_LIBRARIES and LEANK_HAVE_ONEDNN.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)

set(LEANK_LIBRARIES PkgConfig::JANSSON PkgConfig::PCRE2 PkgConfig::UTF8PROC Threads::Threads m ${CMAKE_DL_LIBS})
set(LEANK_PC_REQUIRES "jansson libpcre2-8 libutf8proc")

# GEMM: oneDNN (v2 or v3), else a CBLAS in fp32.
find_path(ONEDNN_INCLUDE_DIR oneapi/dnnl/dnnl.h)
find_library(ONEDNN_LIBRARY dnnl)
if(ONEDNN_INCLUDE_DIR AND ONEDNN_LIBRARY)
  set(LEANK_HAVE_ONEDNN ON)
  add_compile_definitions(LEANK_HAVE_ONEDNN=1)
  # oneDNN's threads are OpenMP's; ours must be able to tell it to use one.
  find_package(OpenMP REQUIRED COMPONENTS C)
  list(APPEND LEANK_LIBRARIES ${ONEDNN_LIBRARY} OpenMP::OpenMP_C)
  set(LEANK_PC_LIBS "-ldnnl")
  foreach(name IN LISTS OpenMP_C_LIB_NAMES)
    string(APPEND LEANK_PC_LIBS " -l${name}")
  endforeach()
else()
  find_package(BLAS REQUIRED)
  list(APPEND LEANK_LIBRARIES BLAS::BLAS)
  string(REPLACE ";" " " LEANK_PC_LIBS "${BLAS_LIBRARIES}")
endif()
