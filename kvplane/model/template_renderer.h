// Runs a compiled chat template over its variables, within a TemplateBudget.
//
// Thread safety: pure function.
#pragma once

#include <string>

#include "kvplane/base/status.h"
#include "kvplane/model/template_program.h"
#include "kvplane/model/template_value.h"

namespace kvplane::model {

// kInvalidArgument: raise_exception or a wrong type, with the line; kResourceExhausted: the budget.
base::Result<std::string> RenderTemplate(const TemplateProgram& program, TemplateValue::Dict variables);

}  // namespace kvplane::model
