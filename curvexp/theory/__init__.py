"""Closed forms: what the theory of optimization says of a step, a rate and a threshold; a file a subject.

All functions are pure, take numpy arrays or numbers (float64) and broadcast. `Float64[np.ndarray, "..."]` has the shape to which the
arguments broadcast; where all of them are numbers it is numpy's float64.
"""

from curvexp.theory.critical_points import above_rounding as above_rounding
from curvexp.theory.critical_points import rounding_floor as rounding_floor
from curvexp.theory.critical_points import second_derivative_test as second_derivative_test
from curvexp.theory.inputs import InputConditions as InputConditions
from curvexp.theory.inputs import input_conditions as input_conditions
from curvexp.theory.inputs import top_of_second_moment as top_of_second_moment
from curvexp.theory.quadratic import Optimum as Optimum
from curvexp.theory.quadratic import directional_curvature as directional_curvature
from curvexp.theory.quadratic import gradient_descent_optimum as gradient_descent_optimum
from curvexp.theory.quadratic import gradient_descent_trajectory as gradient_descent_trajectory
from curvexp.theory.quadratic import heavy_ball_angle as heavy_ball_angle
from curvexp.theory.quadratic import heavy_ball_optimum as heavy_ball_optimum
from curvexp.theory.quadratic import heavy_ball_trajectory as heavy_ball_trajectory
from curvexp.theory.quadratic import level_set_axes as level_set_axes
from curvexp.theory.quadratic import nesterov_optimum as nesterov_optimum
from curvexp.theory.quadratic import nesterov_trajectory as nesterov_trajectory
from curvexp.theory.quadratic import quadratic_gradient as quadratic_gradient
from curvexp.theory.quadratic import quadratic_hessian as quadratic_hessian
from curvexp.theory.quadratic import quadratic_minimum as quadratic_minimum
from curvexp.theory.quadratic import steps_to_target as steps_to_target
from curvexp.theory.random_matrices import classifier_outliers as classifier_outliers
from curvexp.theory.random_matrices import marchenko_pastur_edges as marchenko_pastur_edges
from curvexp.theory.random_matrices import outlier_threshold as outlier_threshold
from curvexp.theory.random_matrices import spiked_top_eigenvalue as spiked_top_eigenvalue
from curvexp.theory.stability import adam_iteration as adam_iteration
from curvexp.theory.stability import adam_threshold as adam_threshold
from curvexp.theory.stability import adamw_iteration as adamw_iteration
from curvexp.theory.stability import adamw_threshold as adamw_threshold
from curvexp.theory.stability import catapult_range as catapult_range
from curvexp.theory.stability import decayed_threshold as decayed_threshold
from curvexp.theory.stability import dominant_mode as dominant_mode
from curvexp.theory.stability import gradient_descent_contraction as gradient_descent_contraction
from curvexp.theory.stability import gradient_descent_iteration as gradient_descent_iteration
from curvexp.theory.stability import gradient_descent_threshold as gradient_descent_threshold
from curvexp.theory.stability import heavy_ball_contraction as heavy_ball_contraction
from curvexp.theory.stability import heavy_ball_iteration as heavy_ball_iteration
from curvexp.theory.stability import heavy_ball_threshold as heavy_ball_threshold
from curvexp.theory.stability import iteration_contraction as iteration_contraction
from curvexp.theory.stability import iteration_threshold as iteration_threshold
from curvexp.theory.stability import nesterov_contraction as nesterov_contraction
from curvexp.theory.stability import nesterov_iteration as nesterov_iteration
from curvexp.theory.stability import nesterov_threshold as nesterov_threshold
from curvexp.theory.stability import rmsprop_threshold as rmsprop_threshold
from curvexp.theory.stability import sgd_largest_lr as sgd_largest_lr
from curvexp.theory.stability import sgd_second_moment_factor as sgd_second_moment_factor
from curvexp.theory.stability import step_matrix as step_matrix
from curvexp.theory.taylor import best_step_along_gradient as best_step_along_gradient
from curvexp.theory.taylor import best_step_length as best_step_length
from curvexp.theory.taylor import taylor_change as taylor_change
from curvexp.theory.taylor import uphill_step_along_gradient as uphill_step_along_gradient
