# What is installed. `cmake --install` puts the programs into bin/; the component "bundle", which tools/bundle
# packs, also puts the shared libraries they need into lib/; the component "model" is the embedded model.

# Installed programs look into ../lib before anywhere else, and so do the libraries found there for theirs:
# DT_RPATH, which --disable-new-dtags writes, holds for both, DT_RUNPATH for the program only. The build tree has
# the same entry, so that installing changes no byte of a program but its symbols.

# What a bundle leaves to the machine: glibc, which belongs to its kernel and loader, the driver, and CUDA's
# libraries, which are gigabytes and come with every CUDA image. tests/tools/bundle_test.py has the same list.
set(LEXICO_LIBRARIES_OF_THE_MACHINE
    "^ld-linux" "^lib(c|m|mvec|dl|rt|pthread|resolv|util|anl)\\.so"
    "^lib(cuda|cudart|cublas|cublasLt|cudnn[a-z_]*|nccl|nvrtc|nvrtc-builtins|nvJitLink|nvidia-[a-z-]*)\\.so")

# Called by lexico_binary for every program.
function(lexico_install_program name)
  set_target_properties(${name} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib" BUILD_WITH_INSTALL_RPATH ON)
  target_link_options(${name} PRIVATE "LINKER:--disable-new-dtags")
  install(TARGETS ${name} RUNTIME_DEPENDENCY_SET lexico_programs RUNTIME DESTINATION bin COMPONENT bundle)
  set_property(GLOBAL APPEND PROPERTY LEXICO_PROGRAMS ${name})
endfunction()

# Called once, after the last program. Makes the target `programs`: all that a bundle holds.
function(lexico_install_libraries)
  get_property(programs GLOBAL PROPERTY LEXICO_PROGRAMS)
  add_custom_target(programs DEPENDS ${programs})
  install(
    RUNTIME_DEPENDENCY_SET lexico_programs
    PRE_EXCLUDE_REGEXES ${LEXICO_LIBRARIES_OF_THE_MACHINE}
    LIBRARY DESTINATION lib COMPONENT bundle EXCLUDE_FROM_ALL)
  install(FILES LICENSE DESTINATION share/lexico COMPONENT bundle EXCLUDE_FROM_ALL)
  install(DIRECTORY models/lexico-20m DESTINATION share/lexico/models COMPONENT model EXCLUDE_FROM_ALL)
endfunction()
