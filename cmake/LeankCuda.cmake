# libleank_cuda: every .cu file of src/cuda/ behind the one symbol of cuda_api.h, and its tests.
# cudart is linked statically and cuBLASLt dynamically; a driver is needed to use it only.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  # Machine code for A100 and H100; newer devices compile what is for the latter.
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
find_library(LEANK_CUBLASLT cublasLt REQUIRED
             HINTS ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES}
                   ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES}/../lib64)

file(GLOB_RECURSE LEANK_CUDA_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/cuda/*.cu)
add_library(leank_cuda_objects OBJECT ${LEANK_CUDA_SOURCES})
target_include_directories(leank_cuda_objects PUBLIC ${PROJECT_SOURCE_DIR}/src
                                                     ${PROJECT_SOURCE_DIR}/include)
target_compile_options(leank_cuda_objects PRIVATE -Xcompiler=-Wall,-Wextra)
if(LEANK_WERROR)
  target_compile_options(leank_cuda_objects PRIVATE -Xcompiler=-Werror -Werror=all-warnings)
endif()

add_library(leank_cuda SHARED $<TARGET_OBJECTS:leank_cuda_objects>)
target_link_libraries(leank_cuda PRIVATE ${LEANK_CUBLASLT})
set_target_properties(leank_cuda PROPERTIES LINKER_LANGUAGE CUDA)
# Of the static runtime, too, nothing is seen.
target_link_options(leank_cuda PRIVATE "LINKER:--exclude-libs,ALL" "LINKER:-z,defs")
install(TARGETS leank_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})

if(NOT LEANK_TESTS)
  return()
endif()
# 77: no device here.
enable_testing()
add_library(leank_cuda_static STATIC $<TARGET_OBJECTS:leank_cuda_objects>)
set_target_properties(leank_cuda_static PROPERTIES LINKER_LANGUAGE CUDA)
target_link_libraries(leank_cuda_static PUBLIC ${LEANK_CUBLASLT})
# What widening is compared with.
add_library(leank_cuda_reference STATIC ${PROJECT_SOURCE_DIR}/src/kernels/dequant/dequant_c.c
                                        ${PROJECT_SOURCE_DIR}/src/base/dtype.c)
target_include_directories(leank_cuda_reference PRIVATE ${PROJECT_SOURCE_DIR}/src
                                                        ${PROJECT_SOURCE_DIR}/include)
add_custom_target(leank_cuda_tests) # the library and its tests, nothing else
add_dependencies(leank_cuda_tests leank_cuda)
file(GLOB LEANK_CUDA_TESTS CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/cuda/*.cu)
foreach(source IN LISTS LEANK_CUDA_TESTS)
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src
                                             ${PROJECT_SOURCE_DIR}/include
                                             ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(${name} PRIVATE leank_cuda_static leank_cuda_reference)
  add_dependencies(leank_cuda_tests ${name})
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS cuda SKIP_RETURN_CODE 77 TIMEOUT 600)
endforeach()

# A real model on the GPU beside the CPU; run by hand, with the model's path.
add_executable(cuda_model ${PROJECT_SOURCE_DIR}/tests/cuda/cuda_model.c)
target_link_libraries(cuda_model PRIVATE leank_static m)
